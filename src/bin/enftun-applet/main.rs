//! `enftun-applet`: the tunnels in the notification area of a desktop. It reads its arguments and ties the two buses
//! together: what the system bus tells becomes a [`View`], and the session bus is shown that.
//!
//! It is a stranger to the daemon on purpose: it uses nothing of the library, only the public bus API, as an applet by
//! anybody else would.

mod daemon;
mod dbusmenu;
mod icon;
mod menu;
mod tray;
mod view;

use clap::Parser;
use std::error::Error;
use std::process::ExitCode;
use tokio::sync::{mpsc, watch};
use view::View;

/// Shows the tunnels of enftund in the notification area, and connects and disconnects them.
///
/// It needs a desktop with a notification area that knows status notifier items: KDE, Xfce, LXQt, Cinnamon, MATE, or GNOME
/// with its AppIndicator extension. What the user may not do is grey; what needs a password ends with three dots.
#[derive(Debug, Parser)]
#[command(name = "enftun-applet", version)]
struct Arguments {}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    Arguments::parse();
    let (shown, seen) = watch::channel(View::default());
    let (ask, asked) = mpsc::unbounded_channel();
    tokio::spawn(daemon::follow(shown.clone(), asked));
    match tray::run(&shown, seen, ask).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                // Some errors say their cause themselves.
                if !text.ends_with(&error.to_string()) {
                    text += &format!(": {error}");
                }
                cause = error.source();
            }
            eprintln!("enftun-applet: {text}");
            ExitCode::FAILURE
        }
    }
}
