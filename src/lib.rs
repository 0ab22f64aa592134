//! enftun keeps a Linux host on an overlay network through tunnels, and never lets its traffic out by another way.
//!
//! | module | owns |
//! |---|---|
//! | [`config`] | what the user wrote, every default filled in, all mistakes found at once |
//! | [`state`] | the life of a tunnel as a pure function |
//! | [`plan`] | what the kernel must hold, as a value |
//! | [`kernel`] | the only place that changes the host: netlink and TUN |
//! | [`transport`] | marked sockets, dialling, TLS configuration and trust |
//! | [`identity`] | certificates and keys |
//! | [`tunnel`] | a live session; `tunnel::enf` is the kind that carries IP packets |
//! | [`card`] | what the host behind a router card hears: router advertisements, neighbours, DHCPv6 |
//! | [`daemon`] | the one actor |
//! | [`dbus`] | bus objects and client proxies; the only user of zbus |
//! | [`cli`] | `enftunctl`, one file a verb |
//! | [`router`] | the far end |
//! | [`localproxy`] | `enftun-localproxy`: kind `aws-iot` as a command of its own |
//! | [`metrics`] | OpenMetrics text |
//! | [`terminal`] | colour and tables for people |
//! | [`privileges`], [`logging`], [`paths`], [`files`], [`error`], [`sys`] | what all share; `sys` is the only unsafe code |
//!
//! ```text
//! /etc/enftun/**.toml --parse, validate--> Config --\
//! bus, signals, timers, sessions -----------------> Event --> state::step (pure) --> State' + [Effect]
//!                                                                 |
//!                                   plan::build (pure) --> Plan (a value; prints as ip text)
//!                                                                 |
//!              daemon runs the effects in order: rules, link, routes, session (the reverse on the way down)
//!                                                                 |
//!                   verify (observe equals plan) --> Event::Applied | Event::ApplyFailed --> step ...
//!                                                                 |
//!                           snapshot (watch channel) --> D-Bus properties, sd_notify STATUS, journal, metrics
//! ```
//!
//! Packets never pass through the daemon: a session gets its TUN queue and its connected socket and pumps by itself.

pub mod card;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod dbus;
pub mod error;
pub mod files;
pub mod identity;
pub mod kernel;
pub mod localproxy;
pub mod logging;
pub mod metrics;
pub mod paths;
pub mod plan;
pub mod privileges;
pub mod router;
pub mod state;
pub mod sys;
pub mod terminal;
pub mod transport;
pub mod tunnel;
