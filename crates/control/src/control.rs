//! The loop: owns the state, and is the only one that writes the log.
//!
//! ```text
//!  requests, results ──▶ [inbox] ──▶ step (pure) ──▶ append (disk) ──▶ start and stop effects
//!                                                                          │
//!                        results ◀─────────────────────────────────────────┘
//! ```
//!
//! What runs follows from [`App::pending`]: an effect is started when its action appears there and
//! stopped when it disappears. A restarted loop folds the log and so starts what has no result yet.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::app::{Action, App, Event};
use domain::pipeline::{Run, RunAction};
use domain::refusal::Refusal;
use domain::{RunId, Timestamp};
use store::{Entry, Store, StoreError};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// How many requests and results may wait for the loop.
const INBOX: usize = 256;
/// How many events a slow listener may lag behind before it has to read the log.
const LISTENERS: usize = 1024;
/// Before an effect whose result was refused is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// Performs actions; the loop's hands.
pub trait Effects: Send + Sync + 'static {
    /// Performs `action`, as often as it takes, and says how it went. Ends early when cancelled.
    fn perform(&self, call: Call) -> impl Future<Output = Option<Event>> + Send + 'static;
}

/// One action to perform, with all that it may need to know.
pub struct Call {
    pub action: Action,
    /// The state that asked for it.
    pub app: Arc<App>,
    pub handle: Handle,
    pub cancel: CancellationToken,
}

impl Call {
    /// Says what is in the way, for `status`.
    pub fn note(&self, text: impl Into<String>) {
        self.handle.note(&self.action, text.into());
    }
}

/// How others reach the loop. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Message>,
    app: watch::Receiver<Arc<App>>,
    entries: broadcast::Sender<Arc<Entry>>,
    notes: Arc<Mutex<HashMap<Action, String>>>,
    closed: Arc<AtomicBool>,
    store: Store,
}

/// Why an event was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Declined {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the server is stopping")]
    Stopping,
}

enum Message {
    Offer { event: Box<Event>, reply: oneshot::Sender<Result<Arc<App>, Refusal>> },
    Done { action: Action, event: Option<Box<Event>> },
    Again { action: Action },
}

impl Handle {
    /// Offers an event. When this returns `Ok`, it is on disk and in force.
    pub async fn offer(&self, event: Event) -> Result<Arc<App>, Declined> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Offer { event: Box::new(event), reply };
        self.inbox.send(message).await.map_err(|_| Declined::Stopping)?;
        Ok(answer.await.map_err(|_| Declined::Stopping)??)
    }

    /// Refuses new runs and rollouts, as long as everything is being taken down.
    pub fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::SeqCst);
    }

    /// Whether everything is being taken down.
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// The state now.
    pub fn app(&self) -> Arc<App> {
        self.app.borrow().clone()
    }

    /// The state whenever it changes.
    pub fn watch(&self) -> watch::Receiver<Arc<App>> {
        self.app.clone()
    }

    /// Each event as it is logged.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Entry>> {
        self.entries.subscribe()
    }

    /// The log itself.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What effects under way say is in their way.
    pub fn notes(&self) -> HashMap<Action, String> {
        lock(&self.notes).clone()
    }

    fn note(&self, action: &Action, text: String) {
        lock(&self.notes).insert(action.clone(), text);
    }
}

/// Which of the wanted actions a loop performs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remit {
    All,
    Runs,
    TakingDown,
}

/// The loop itself.
pub struct Control<E> {
    app: Arc<App>,
    clock: Clock,
    effects: Arc<E>,
    inbox: mpsc::Receiver<Message>,
    running: HashMap<Action, CancellationToken>,
    remit: Remit,
    published: watch::Sender<Arc<App>>,
    handle: Handle,
}

impl<E: Effects> Control<E> {
    /// Folds the log. Nothing is started before [`Control::run`].
    pub async fn open(store: Store, effects: Arc<E>) -> Result<(Self, Handle), OpenError> {
        let (app, last) = fold(&store).await?;
        let app = Arc::new(app);
        let (sender, inbox) = mpsc::channel(INBOX);
        let (published, watch) = watch::channel(app.clone());
        let handle = Handle {
            inbox: sender,
            app: watch,
            entries: broadcast::channel(LISTENERS).0,
            notes: Arc::default(),
            closed: Arc::default(),
            store,
        };
        let control = Self {
            app,
            clock: Clock::after(last),
            effects,
            inbox,
            running: HashMap::new(),
            remit: Remit::All,
            published,
            handle: handle.clone(),
        };
        Ok((control, handle))
    }

    /// Leaves everything but the build pipeline to a server.
    pub fn only_runs(self) -> Self {
        Self { remit: Remit::Runs, ..self }
    }

    /// Ends and takes away, and begins nothing.
    pub fn only_takes_down(self) -> Self {
        Self { remit: Remit::TakingDown, ..self }
    }

    /// Runs until `stop`. Effects under way are dropped then; the log says what to repeat.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        self.start_and_stop();
        loop {
            let wait = self.deadline();
            let message = tokio::select! {
                () = stop.cancelled() => break,
                () = passed(wait) => Message::due(),
                message = self.inbox.recv() => match message {
                    Some(message) => message,
                    None => break,
                },
            };
            self.take(message).await?;
        }
        // Nothing is cancelled: jobs under way go on without us, and whoever comes next adopts them.
        Ok(())
    }

    async fn take(&mut self, message: Message) -> Result<(), StoreError> {
        match message {
            Message::Offer { event, reply } => {
                let answer = self.log(*event).await?;
                // Whoever asked may have gone away: the event stands.
                let _gone = reply.send(answer);
            }
            Message::Done { action, event } => self.finished(action, event).await?,
            Message::Again { action } => {
                self.running.remove(&action);
            }
        }
        self.start_and_stop();
        Ok(())
    }

    async fn finished(
        &mut self,
        action: Action,
        event: Option<Box<Event>>,
    ) -> Result<(), StoreError> {
        lock(&self.handle.notes).remove(&action);
        let refused = match event {
            Some(event) => self.log(*event).await?.err(),
            None => None,
        };
        if let Some(refusal) = &refused {
            tracing::warn!(?action, %refusal, "the result of an action was refused");
        }
        // An action that is still wanted although it ended is tried again, but not in a hot loop.
        if self.app.pending().contains(&action) {
            let inbox = self.handle.inbox.clone();
            tokio::spawn(async move {
                tokio::time::sleep(PAUSE).await;
                // A loop that has stopped needs no reminder.
                let _stopped = inbox.send(Message::Again { action }).await;
            });
        } else {
            self.running.remove(&action);
        }
        Ok(())
    }

    /// Steps a copy, appends, and only then makes the copy the state: what is not on disk never was.
    async fn log(&mut self, event: Event) -> Result<Result<Arc<App>, Refusal>, StoreError> {
        if self.handle.closed() && begins(&event) {
            return Ok(Err(Refusal::new("everything is being taken down")));
        }
        if let Some(run) = built_already(&self.app, &event) {
            return Ok(Err(Refusal::new(format!("{run} builds it already"))));
        }
        let now = self.clock.now();
        let mut next = App::clone(&self.app);
        if let Err(refusal) = next.step(&event, now) {
            return Ok(Err(refusal));
        }
        let seq = self.handle.store.append(now, &event).await?;
        crash_point(seq);
        self.app = Arc::new(next);
        self.published.send_replace(self.app.clone());
        // Nobody has to listen.
        let _unheard = self.handle.entries.send(Arc::new(Entry { seq, at: now, event }));
        Ok(Ok(self.app.clone()))
    }

    fn start_and_stop(&mut self) {
        let mut wanted = self.app.pending();
        wanted.retain(|action| self.remit.covers(action));
        self.running.retain(|action, cancel| {
            let keep = wanted.contains(action);
            if !keep {
                cancel.cancel();
            }
            keep
        });
        lock(&self.handle.notes).retain(|action, _| wanted.contains(action));
        for action in wanted {
            if !self.running.contains_key(&action) {
                let cancel = self.start(action.clone());
                self.running.insert(action, cancel);
            }
        }
    }

    fn start(&self, action: Action) -> CancellationToken {
        let cancel = CancellationToken::new();
        let call = Call {
            action: action.clone(),
            app: self.app.clone(),
            handle: self.handle.clone(),
            cancel: cancel.clone(),
        };
        let effect = self.effects.perform(call);
        let inbox = self.handle.inbox.clone();
        let cancelled = cancel.clone();
        tokio::spawn(async move {
            let event = effect.await.map(Box::new);
            if !cancelled.is_cancelled() {
                // A loop that has stopped will ask for it again after its restart.
                let _stopped = inbox.send(Message::Done { action, event }).await;
            }
        });
        cancel
    }

    fn deadline(&self) -> Option<Duration> {
        // Rollouts are the server's: nothing of theirs may run out while it is away.
        let deadline = self.app.deadline().filter(|_| self.remit != Remit::Runs);
        deadline.map(|at| at.since(self.clock.now()))
    }
}

impl Remit {
    fn covers(self, action: &Action) -> bool {
        match self {
            Self::All => true,
            Self::Runs => matches!(action, Action::Run { .. }),
            Self::TakingDown => match action {
                Action::Run { action, .. } => *action == RunAction::CleanUp,
                Action::Publish { .. }
                | Action::Remove { .. }
                | Action::TakeDown { .. }
                | Action::Drain { .. }
                // The first release of an environment cannot be aborted while it bakes.
                | Action::Watch { .. } => true,
                // Whatever these belong to is aborted.
                Action::Prepare { .. }
                | Action::Migrate { .. }
                | Action::Start { .. }
                | Action::Check { .. } => false,
            },
        }
    }
}

/// The unfinished run of the same head of the same branch: its watcher and people may ask at once.
fn built_already(app: &App, event: &Event) -> Option<RunId> {
    let Event::RunRequested { commit, branch: Some(branch), .. } = event else { return None };
    let same =
        |run: &&Run| run.commit == *commit && run.branch.as_ref() == Some(branch) && !run.ended();
    app.runs.values().find(same).map(|run| run.id.clone())
}

fn begins(event: &Event) -> bool {
    matches!(
        event,
        Event::RunRequested { .. }
            | Event::DeployRequested { .. }
            | Event::RollbackRequested { .. }
    )
}

/// For ever, when there is nothing to wait for.
async fn passed(wait: Option<Duration>) {
    match wait {
        None => std::future::pending().await,
        Some(wait) => tokio::time::sleep(wait).await,
    }
}

impl Message {
    fn due() -> Self {
        Self::Offer { event: Box::new(Event::Timer), reply: oneshot::channel().0 }
    }
}

/// Why the loop could not begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "event {seq} of the log does not fit those before it: {refusal}; the log was changed by hand, or by another version of launchway"
    )]
    Log { seq: u64, refusal: Refusal },
}

async fn fold(store: &Store) -> Result<(App, Timestamp), OpenError> {
    let (mut app, mut seq, mut last) = (App::default(), 0, Timestamp::from_millis(0));
    loop {
        let entries = store.after(seq, 1000).await?;
        let Some(end) = entries.last() else { return Ok((app, last)) };
        (seq, last) = (end.seq, end.at);
        for entry in &entries {
            app.step(&entry.event, entry.at)
                .map_err(|refusal| OpenError::Log { seq: entry.seq, refusal })?;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// In builds made for the crash test, the process dies here as by `kill -9`, after the event whose
/// number `LAUNCHWAY_CRASH_AFTER` names has reached the disk and before anything follows from it.
fn crash_point(seq: u64) {
    if !cfg!(feature = "crash-points") {
        return;
    }
    let wanted = std::env::var("LAUNCHWAY_CRASH_AFTER").ok().and_then(|n| n.parse().ok());
    if wanted == Some(seq) {
        // The process is its own to kill; nothing after this line runs.
        let _never = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::SIGKILL);
    }
}
