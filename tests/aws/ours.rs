//! One end of ours, in this process: sessions one after the other, as the daemon runs them, for a story to look at.

use crate::common::aws_service::{Mode, Service, Tunnel};
use crate::raw::CLIENT;
use enftun::config::{
    self, Application, Aws, Compat, Host, Kind, Limits, Lockdown, Place, Remote, Retry, Route, Services,
};
use enftun::config::{Subprotocol, Tpm, Wire};
use enftun::error::Class;
use enftun::state::{Again, Ended, Reason};
use enftun::tunnel::aws::forwards::{Forwards, Place as At, ServiceView};
use enftun::tunnel::aws::session::{Spec, start};
use enftun::tunnel::aws::tokens::{Source, Tokens};
use enftun::tunnel::{Counters, Reporter, SessionEvent};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};

/// What differs between stories.
#[derive(Clone)]
pub struct Setup {
    pub services: Services,
    pub bind: Option<String>,
    pub compat: Compat,
    pub subprotocol: Subprotocol,
    pub limits: Limits,
    pub period: Duration,
    pub timeout: Duration,
    pub connect_timeout: Duration,
    pub client_token: Option<String>,
    /// None: the tunnel's, as it is at each session.
    pub token: Option<String>,
    pub host: Host,
    pub ca: Option<PathBuf>,
    /// After an end that is worth it, another session begins.
    pub again: bool,
}

#[derive(Default)]
struct Seen {
    ready: u64,
    ends: Vec<Ended>,
    refused: Vec<String>,
    over: bool,
}

/// An end of ours. Dropping it ends it at once.
pub struct Ours {
    runtime: Option<Runtime>,
    seen: Arc<Mutex<Seen>>,
    pub forwards: Arc<Forwards>,
    pub counters: Arc<Counters>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    what: String,
}

/// Services by name.
pub fn named(services: &[(&str, u16)]) -> Services {
    Services::Named(services.iter().map(|(name, port)| ((*name).to_owned(), tcp(*port))).collect())
}

/// A TCP port of this host.
pub fn tcp(port: u16) -> Application {
    Application::Tcp { host: Some("127.0.0.1".into()), port }
}

impl Ours {
    /// A source of all services of the tunnel, at free ports.
    pub fn source(service: &Service, tunnel: &Tunnel) -> Self {
        Self::start(service, tunnel, Mode::Source, |_| {})
    }

    /// A destination with these applications, once the service has it.
    pub fn destination(service: &Service, tunnel: &Tunnel, services: &[(&str, u16)]) -> Self {
        let ours = Self::start(service, tunnel, Mode::Destination, |setup| setup.services = named(services));
        tunnel.destination().wait_for_session(1);
        ours
    }

    pub fn start(service: &Service, tunnel: &Tunnel, mode: Mode, change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup {
            services: Services::Among(BTreeMap::new()),
            bind: Some("127.0.0.1".into()).filter(|_| mode == Mode::Source),
            compat: Compat::V3,
            subprotocol: Subprotocol::V3,
            limits: Limits { retry_delay: Duration::from_millis(200), ..Limits::default() },
            period: Duration::from_secs(5),
            timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(30),
            client_token: Some(CLIENT.to_owned()),
            token: None,
            host: Host::direct("localhost", service.address.port()),
            ca: Some(service.ca_file()),
            again: true,
        };
        change(&mut setup);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let mut ours = Self {
            runtime: None,
            seen: Arc::default(),
            forwards: Arc::default(),
            counters: Arc::default(),
            stop: Some(stop),
            what: mode.as_str().to_owned(),
        };
        let keeps = Keeps {
            seen: ours.seen.clone(),
            forwards: ours.forwards.clone(),
            counters: ours.counters.clone(),
            tunnel: tunnel.clone(),
            mode,
            setup,
        };
        runtime.spawn(async move {
            tokio::pin!(stopped);
            keeps.run(&mut stopped).await;
        });
        ours.runtime = Some(runtime);
        ours
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, mut look: impl FnMut(&Seen) -> Option<T>) -> T {
        let mut found = None;
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            {
                let seen = self.seen.lock().unwrap();
                found = found.or_else(|| look(&seen));
                if let Some(found) = found {
                    return found;
                }
                let late = std::time::Instant::now() > deadline;
                assert!(!late, "the {} waited 60 s in vain for {what}; sessions ended: {:#?}", self.what, seen.ends);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until so many sessions have been ready.
    #[track_caller]
    pub fn wait_until_ready(&self, sessions: u64) {
        self.wait(&format!("session {sessions}"), |seen| (seen.ready >= sessions).then_some(()));
    }

    /// Waits until so many sessions have ended, and returns how.
    #[track_caller]
    pub fn wait_for_ends(&self, many: usize) -> Vec<Ended> {
        self.wait(&format!("{many} ends"), |seen| (seen.ends.len() >= many).then(|| seen.ends.clone()))
    }

    /// The reasons and classes of all ends so far.
    pub fn ends(&self) -> Vec<(Reason, Class)> {
        self.seen.lock().unwrap().ends.iter().map(|ended| (ended.failure.reason, ended.failure.class)).collect()
    }

    pub fn ready(&self) -> u64 {
        self.seen.lock().unwrap().ready
    }

    /// Waits for the end after which no further session is tried.
    #[track_caller]
    pub fn wait_until_over(&self) -> Ended {
        self.wait("its last end", |seen| seen.ends.last().filter(|_| seen.over).cloned())
    }

    /// Where a source listens for this service, once it does.
    #[track_caller]
    pub fn address(&self, service: &str) -> SocketAddr {
        self.wait(&format!("a listening socket of {service:?}"), |_| {
            let places = self.forwards.places();
            match places.services.get(service) {
                Some(Some(At::Tcp(address))) => Some(*address),
                _ => None,
            }
        })
    }

    /// What is counted of a service.
    pub fn service(&self, name: &str) -> ServiceView {
        let view = self.forwards.view();
        view.services.into_iter().find(|service| service.name == name).unwrap()
    }

    #[track_caller]
    pub fn wait_for_service(&self, name: &str, what: &str, holds: impl Fn(&ServiceView) -> bool) {
        self.wait(what, |_| {
            let view = self.forwards.view();
            view.services.iter().find(|service| service.name == name).filter(|service| holds(service)).map(|_| ())
        });
    }

    /// Ends it in good order.
    pub fn stop(mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        self.wait("its goodbye", |seen| seen.over.then_some(()));
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

struct Keeps {
    seen: Arc<Mutex<Seen>>,
    forwards: Arc<Forwards>,
    counters: Arc<Counters>,
    tunnel: Tunnel,
    mode: Mode,
    setup: Setup,
}

impl Keeps {
    async fn run(self, stopped: &mut std::pin::Pin<&mut tokio::sync::oneshot::Receiver<()>>) {
        let mut pause = Duration::from_millis(20);
        for id in 1.. {
            let (to, mut events) = mpsc::channel(64);
            let session = start(self.spec(id, Reporter::new("aws", id, to)));
            let ended = loop {
                let event = tokio::select! {
                    event = events.recv() => event.expect("a session ends with a word").2,
                    stop = &mut *stopped => {
                        if stop.is_ok() {
                            session.stop().await;
                        }
                        self.seen.lock().unwrap().over = true;
                        return;
                    }
                };
                match event {
                    SessionEvent::Ask { granted, .. } | SessionEvent::Dial { granted, .. } => {
                        let _ = granted.send(());
                    }
                    SessionEvent::Ready(_) => {
                        self.seen.lock().unwrap().ready += 1;
                        pause = Duration::from_millis(20);
                    }
                    SessionEvent::Refused { failure, .. } => self.seen.lock().unwrap().refused.push(failure.text),
                    SessionEvent::Ended(ended) => break ended,
                    _ => {}
                }
            };
            let last = !self.setup.again
                || ended.failure.class != Class::Transient
                || matches!(ended.again, Again::NotBefore(delay) if delay > Duration::from_secs(10));
            {
                let mut seen = self.seen.lock().unwrap();
                seen.ends.push(ended);
                seen.over = last;
            }
            if last {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = &mut *stopped => {
                    self.seen.lock().unwrap().over = true;
                    return;
                }
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    fn spec(&self, id: u64, reporter: Reporter) -> Spec {
        let setup = &self.setup;
        let aws = Aws {
            mode: match self.mode {
                Mode::Source => config::Mode::Source,
                Mode::Destination => config::Mode::Destination,
            },
            services: setup.services.clone(),
            bind: setup.bind.clone(),
            compat: setup.compat,
            subprotocol: setup.subprotocol,
            token_file: None,
            client_token_file: None,
            verify: true,
            limits: setup.limits,
        };
        let tunnel = config::Tunnel {
            name: "aws".into(),
            autoconnect: true,
            kind: Kind::Aws(Box::new(aws.clone())),
            remote: Remote {
                name: Some(setup.host.host.clone()),
                hosts: vec![setup.host.clone()],
                ca_cert_file: setup.ca.clone().map(Place::File),
                heartbeat_period: setup.period,
                heartbeat_timeout: setup.timeout,
                connect_timeout: setup.connect_timeout,
                congestion_control: None,
                wire: Wire::default(),
            },
            route: Route {
                prefixes: Vec::new(),
                fwmark: 0,
                fwmark_mask: u32::MAX,
                table: 0,
                trusted_interfaces: Vec::new(),
                trusted_groups: Vec::new(),
                allow_ipv4: true,
                lockdown: Lockdown::Off,
            },
            retry: Retry::default(),
            tpm: Tpm::default(),
        };
        let token = setup.token.clone().unwrap_or_else(|| self.tunnel.token(self.mode));
        Spec {
            id,
            tunnel: Arc::new(tunnel),
            aws: Arc::new(aws),
            tokens: Source::Given(Tokens::new(token, setup.client_token.clone()).unwrap()),
            forwards: self.forwards.clone(),
            counters: self.counters.clone(),
            last_addresses: BTreeMap::new(),
            probe_url: None,
            probe: Arc::new(Notify::new()),
            reporter,
        }
    }
}
