//! How long one side is waited for in the middle of an answer: the idle limit.

use std::rc::Rc;
use std::task::Context;

use crate::fast::Alarm;
use crate::worker::Worker;

/// Patience with a replica that may have stalled, or with a client that may not take any more.
pub struct Patience {
    worker: Rc<Worker>,
    /// Set while something is waited for.
    alarm: Option<Alarm>,
}

impl Patience {
    pub fn new(worker: &Rc<Worker>) -> Self {
        Self { worker: worker.clone(), alarm: None }
    }

    /// What was waited for came.
    pub fn restore(&mut self) {
        self.alarm = None;
    }

    /// Whether nothing came for the idle limit. Wakes the task when it is so.
    pub fn is_over(&mut self, cx: &Context<'_>) -> bool {
        let worker = &self.worker;
        let alarm = self.alarm.get_or_insert_with(|| {
            let alarm = worker.fast.timers.alarm(cx);
            alarm.set(worker.shared.limits.idle);
            alarm
        });
        alarm.went_off()
    }
}
