//! The kinds of event in the journal: each has a `MESSAGE_ID` of its own (systemd.journal-fields(7)), by which programs find it
//! and the catalogue explains it. `docs/journal.md` and `systemd/enftun.catalog` list them; a test holds the three together.

/// Every kind, with its name in the documentation.
pub const ALL: &[(&str, &str)] = &[
    ("started", STARTED),
    ("stopping", STOPPING),
    ("request", REQUEST),
    ("refused", REFUSED),
    ("connected", CONNECTED),
    ("connecting", CONNECTING),
    ("disconnected", DISCONNECTED),
    ("moved", MOVED),
    ("enrolled", ENROLLED),
    ("lost", LOST),
    ("failed", FAILED),
    ("tampered", TAMPERED),
    ("kept-blocked", KEPT_BLOCKED),
    ("configuration", CONFIGURATION),
    ("trusted", TRUSTED),
    ("foreign", FOREIGN),
    ("portal", PORTAL),
];

/// The daemon runs, and the tunnels are back to what they were.
pub const STARTED: &str = "248b26dbf05b4bf4bf7fcdc680edce3e";

/// The daemon ends; what is blocked stays blocked.
pub const STOPPING: &str = "ffff47926d9443b585085686f750ffd6";

/// Somebody asked for a change: of a tunnel, the configuration, trust, lockdown or the log.
pub const REQUEST: &str = "2b7c1c913a45405580c73589ab3cb338";

/// A request was refused, or may not be made by whoever made it.
pub const REFUSED: &str = "e003c47c369145168dd828e3574f2f00";

/// A tunnel carries packets.
pub const CONNECTED: &str = "b97cbf77a6734310a4891c65bfba4ca5";

/// A tunnel is on its way up or down, by somebody's word or after a pause.
pub const CONNECTING: &str = "741020b621f44bf99ca3d6040e93e268";

/// A tunnel is disconnected, as its user wants it.
pub const DISCONNECTED: &str = "190ebc867a8e4ae394be8c8f514f144c";

/// A tunnel goes on through another session, without a pause.
pub const MOVED: &str = "6041d86c5188414f9f50425e24dd395c";

/// A tunnel got a new certificate and key by itself.
pub const ENROLLED: &str = "c0b89853783746af94049cdb7a446fd0";

/// A tunnel lost its session or did not get one, and tries again.
pub const LOST: &str = "2b2c1c00c43b41818dd22271a9bd83b2";

/// A tunnel is in error: something is to be done.
pub const FAILED: &str = "81687fe1e9f1402eb88facecc9c39cc3";

/// Somebody else changed something of ours in the kernel, and it was put back.
pub const TAMPERED: &str = "49a6c494b28c4d3893a9f8afdd176075";

/// A tunnel is kept blocked although its file cannot be used or is gone.
pub const KEPT_BLOCKED: &str = "8db9546a738d43249a4887e7260c7294";

/// Something in the configuration is wrong, or probably not what is meant.
pub const CONFIGURATION: &str = "082cf1abcdda4b689ab678d0970752b0";

/// A trusted interface came.
pub const TRUSTED: &str = "e31c494617cc41b6abe2561c4943714d";

/// Something of the host's own, which is not put back, weakens it: a missing rule, a link in a group nobody trusts.
pub const FOREIGN: &str = "e85776fdb4d24646bcb7c1876a3e839b";

/// The network wants somebody to sign in before it lets anything through.
pub const PORTAL: &str = "b49e424fd04345e6b269d0779b4622c3";
