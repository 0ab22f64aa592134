//! `enftunctl status`: how the tunnels are, for people at a glance, for programs in full.

use super::{CliError, output, time};
use crate::dbus::client::{
    Client, DaemonInfo, FirewallInfo, ForwardsInfo, Overview, ServiceInfo, StatisticsInfo, TunnelInfo, WarningInfo,
};
use crate::terminal::{Span, Tone};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tunnel; all when left out.
    name: Option<String>,
    /// Prints JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<(), CliError> {
    let client = Client::connect().await?;
    let overview = match &args.name {
        Some(name) => {
            let (daemon, tunnel) = client.tunnel(name).await?;
            Overview { daemon, tunnels: vec![tunnel] }
        }
        None => client.overview().await?,
    };
    if args.json {
        return output::json(&overview);
    }
    let now = time::now();
    let Overview { daemon, tunnels } = overview;
    let mut below: Vec<_> = match tunnels.as_slice() {
        [] => {
            output::line("no tunnels; put a file into /etc/enftun/tunnels and run `enftunctl reload`")?;
            Vec::new()
        }
        [tunnel] => {
            details(tunnel, &daemon, now).iter().try_for_each(|line| output::spans(line))?;
            Vec::new()
        }
        tunnels => {
            output::table(
                ["NAME", "STATE", "SINCE", "REASON", "REMOTE", "ADDRESSES", "RECEIVED", "SENT"],
                tunnels.iter().map(|tunnel| row(tunnel, now)).collect(),
            )?;
            tunnels.iter().filter_map(|tunnel| failure(tunnel, now)).collect()
        }
    };
    // Of one tunnel, what is about another is nobody's question.
    let concerns = |of: &Option<String>| args.name.is_none() || of.is_none() || *of == args.name;
    below.extend(daemon.warnings.iter().filter(|warning| concerns(&warning.tunnel)).map(warned));
    if !below.is_empty() {
        output::line("")?;
    }
    below.iter().try_for_each(|line| output::spans(line))
}

/// One line a warning.
fn warned(warning: &WarningInfo) -> Vec<Span> {
    let WarningInfo { code, severity, tunnel, text } = warning;
    let tunnel = tunnel.as_ref().map(|tunnel| format!("{tunnel}: ")).unwrap_or_default();
    vec![Span::new(tone(warning), severity), format!(": {tunnel}{text} ({code})").into()]
}

fn row(tunnel: &TunnelInfo, now: u64) -> [Span; 8] {
    let (received, sent) = match &tunnel.forwards {
        None => (tunnel.statistics.rx_bytes, tunnel.statistics.tx_bytes),
        Some(_) => (
            tunnel.services().map(|service| service.counters.rx_bytes).sum(),
            tunnel.services().map(|service| service.counters.tx_bytes).sum(),
        ),
    };
    let or_dash = |text: String| Span::from(if text.is_empty() { "-".to_owned() } else { text });
    [
        tunnel.name.as_str().into(),
        Span::state(&tunnel.state),
        time::relative(tunnel.state_since, now).into(),
        tunnel.state_reason.as_str().into(),
        or_dash(tunnel.active_remote.clone().unwrap_or_default()),
        or_dash(tunnel.addresses.join(",")),
        bytes(received).into(),
        bytes(sent).into(),
    ]
}

/// What is wrong with a tunnel, below the table.
fn failure(tunnel: &TunnelInfo, now: u64) -> Option<Vec<Span>> {
    let error = tunnel.last_error.as_ref()?;
    let next = tunnel.next_attempt.map(|next| format!("; next attempt {}", time::relative(next, now)));
    let tone = Tone::of_state(&tunnel.state);
    Some(vec![Span::new(tone, &tunnel.name), format!(": {}", error.text).into(), next.unwrap_or_default().into()])
}

/// One tunnel in full, a line each; what is absent is left out.
fn details(tunnel: &TunnelInfo, daemon: &DaemonInfo, now: u64) -> Vec<Vec<Span>> {
    let moment = |usec| format!("{} ({})", time::utc(usec), time::relative(usec, now));
    let mut lines = vec![vec![Span::new(Tone::Strong, &tunnel.name), ": ".into(), Span::state(&tunnel.state)]];
    let mut line = |label: &str, value: Span| {
        if !value.text.is_empty() {
            lines.push(vec![format!("  {:<15}", format!("{label}:")).into(), value]);
        }
    };
    line("since", moment(tunnel.state_since).into());
    line("reason", tunnel.state_reason.as_str().into());
    line("wanted", if tunnel.target_state == "connected" { "yes" } else { "no" }.into());
    line("blocking", blocking(tunnel).into());
    line("firewall", firewall(tunnel, &daemon.firewall, now));
    line("remote", tunnel.active_remote.clone().unwrap_or_default().into());
    if tunnel.active_remote.is_none() {
        line("remotes", tunnel.remotes.join(", ").into());
    }
    line("interface", interface(tunnel).into());
    line("addresses", tunnel.addresses.join(", ").into());
    line("routes", tunnel.routes.join(", ").into());
    let of_tunnel = daemon.warnings.iter().filter(|warning| warning.tunnel.as_ref() == Some(&tunnel.name));
    let judged = |code| of_tunnel.clone().find(|warning| warning.code == code).map_or(Tone::Plain, tone);
    if let Some(tls) = &tunnel.tls {
        line("TLS", format!("{}, {}", tls.version, tls.cipher).into());
        line("wire", tls.wire.clone().unwrap_or_default().into());
        let peer = format!("{} (certificate until {})", tls.peer_subject, time::date(tls.peer_not_after));
        let label = if tunnel.forwards.is_some() { "service" } else { "router" };
        line(label, Span::new(judged("router-certificate-expires"), peer));
        let own = tls.local_not_after.map(|end| format!("until {}", time::date(end)));
        line("certificate", Span::new(judged("certificate-expires"), own.unwrap_or_default()));
    }
    match &tunnel.forwards {
        Some(forwards) => {
            forwarded(forwards, now, &mut |label, value| line(label, value.into()));
            liveness(&tunnel.statistics, &mut |label, value| line(label, value.into()));
        }
        None => counters(&tunnel.statistics, &mut |label, value| line(label, value.into())),
    }
    if let Some(error) = &tunnel.last_error {
        line("last error", Span::new(Tone::Bad, format!("{} ({})", error.text, error.reason)));
    }
    if let Some(next) = tunnel.next_attempt {
        line("next attempt", format!("{}, after {} in vain", moment(next), tunnel.attempt).into());
    }
    lines
}

fn tone(warning: &WarningInfo) -> Tone {
    Tone::of_severity(&warning.severity)
}

fn blocking(tunnel: &TunnelInfo) -> String {
    let text = if tunnel.blocking { "yes, what belongs in the tunnel has no other way out" } else { "no" };
    format!("{text} (lockdown: {})", tunnel.lockdown)
}

/// Nothing where there shall be none: `lockdown` is off, nothing belongs in the tunnel, or what belongs in the tunnel may go as without it.
fn firewall(tunnel: &TunnelInfo, of_host: &FirewallInfo, now: u64) -> Span {
    let open = tunnel.routes.is_empty() || tunnel.state == "disconnected" && !tunnel.blocking;
    match of_host.last_verified {
        _ if open || tunnel.lockdown == "off" => Span::default(),
        Some(seen) if of_host.in_force => format!("in force, looked at {}", time::relative(seen, now)).into(),
        _ => Span::new(
            Tone::Bad,
            "NOT in force; until it is, routing alone blocks, and what is bound to an interface may leave by it",
        ),
    }
}

fn interface(tunnel: &TunnelInfo) -> String {
    match (&tunnel.interface, tunnel.if_index) {
        (Some(name), Some(index)) => format!("{name} (index {index}), MTU {}", tunnel.mtu.unwrap_or_default()),
        (Some(name), None) => format!("{name} (not there), MTU {}", tunnel.mtu.unwrap_or_default()),
        (None, _) => String::new(),
    }
}

fn counters(counters: &StatisticsInfo, line: &mut impl FnMut(&str, String)) {
    let of = |octets, packets, dropped| format!("{} in {packets} packets; {dropped} dropped", bytes(octets));
    line("received", of(counters.rx_bytes, counters.rx_packets, counters.rx_dropped));
    line("sent", of(counters.tx_bytes, counters.tx_packets, counters.tx_dropped));
    let drops: Vec<String> = counters.drop_reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    line("drops", drops.join(", "));
    liveness(counters, line);
}

fn liveness(counters: &StatisticsInfo, line: &mut impl FnMut(&str, String)) {
    line("reconnects", counters.reconnects.to_string());
    if counters.heartbeat_rtt_usec > 0 {
        let (millis, rest) = (counters.heartbeat_rtt_usec / 1000, counters.heartbeat_rtt_usec % 1000 / 100);
        line("heartbeat", format!("{millis}.{rest} ms"));
    }
}

/// What a tunnel forwards: each service with where it is and what it counted, and then the connections.
fn forwarded(forwards: &ForwardsInfo, now: u64, line: &mut impl FnMut(&str, String)) {
    line("mode", forwards.mode.clone());
    line("channel", forwards.channel_id.clone().unwrap_or_default());
    for service in &forwards.services {
        let of = &service.counters;
        let so_far = format!("{} now, {} in all", of.active, of.connections);
        let data = format!("{} to, {} from applications", bytes(of.rx_bytes), bytes(of.tx_bytes));
        let troubles =
            [(of.refused, "refused"), (of.unreachable, "unreachable"), (of.reset, "reset"), (of.too_slow, "too slow")];
        let troubles = troubles.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("; {count} {what}"));
        let troubles: String = troubles.collect();
        line("forwards", format!("{}: {so_far}; {data}{troubles}", place(service, &forwards.mode)));
    }
    for one in &forwards.connections {
        let data = format!("{} to, {} from it", bytes(one.rx_bytes), bytes(one.tx_bytes));
        let since = time::relative(one.since, now);
        line("connection", format!("{} with {}, begun {since}; {data}", one.service, one.peer));
    }
}

fn place(service: &ServiceInfo, mode: &str) -> String {
    let name = &service.name;
    let from_here = if mode == "source" { "at" } else { "to" };
    let place = match (&service.address, service.port.map(u16::try_from)) {
        (Some(host), Some(Ok(port))) => format!("{from_here} {}", crate::config::authority(host, port)),
        (Some(path), _) => format!("{from_here} {path}"),
        (None, _) => "nowhere now".to_owned(),
    };
    // A tunnel without services has one without a name.
    if name.is_empty() { place } else { format!("{name} {place}") }
}

/// `999 B`, `1.5 KiB`.
fn bytes(count: u64) -> String {
    let mut unit = 1_u64;
    for name in ["B", "KiB", "MiB", "GiB"] {
        if count / unit < 1024 {
            let tenths = u128::from(count) * 10 / u128::from(unit);
            return if unit == 1 { format!("{count} B") } else { format!("{}.{} {name}", tenths / 10, tenths % 10) };
        }
        unit *= 1024;
    }
    format!("{:.1} TiB", count as f64 / 1_099_511_627_776.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_or_so() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1023.9 KiB"),
            (1_048_576, "1.0 MiB"),
            (1_073_741_824, "1.0 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
