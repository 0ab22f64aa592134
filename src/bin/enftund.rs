//! `enftund`: the daemon. It reads its arguments, and the library does the rest.

use clap::Parser;
use enftun::daemon::arguments::{Arguments, Verb};
use enftun::daemon::{lockdown, program};
use enftun::error::{Class, Exit, chain};
use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "tpm")]
    enftun::sys::environment::quieten_tss2();
    let arguments = Arguments::parse();
    let options = arguments.options();
    match arguments.verb {
        None => end(program::run(&options), |error| error.class()),
        Some(Verb::Lockdown { name }) => end(lockdown::run(&options, &name), |error| error.class()),
    }
}

fn end<E: Error + 'static>(done: Result<(), E>, class: fn(&E) -> Class) -> ExitCode {
    match done {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            eprintln!("enftund: {}", chain(&error));
            Exit::from(class(&error)).into()
        }
    }
}
