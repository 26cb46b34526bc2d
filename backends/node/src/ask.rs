//! Questions of the ports' thread to the agent's loop.

use std::time::Duration;

use fairway_agent::Agent;
use fairway_backend_admin::{Job, Source};
use tokio::sync::{mpsc, oneshot};

use crate::node::Question;

/// A loop that does not answer within this is not alive. The kubelet waits no longer either.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to the loop. A question only copies; whatever is made of the answer is made elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) jobs: mpsc::Sender<Job>,
    pub(crate) looks: mpsc::Sender<Question>,
}

impl Ask {
    /// Asks for what the admin port shows, too. `None`: the loop does not answer.
    pub(crate) async fn source<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut dyn Source) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |source| drop(answer.send(question(source))));
        let asked = async {
            self.jobs.send(job).await.ok()?;
            answered.await.ok()
        };
        tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
    }

    /// Asks the agent. `None`: the loop does not answer.
    pub(crate) async fn agent<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Agent) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let look: Question = Box::new(move |agent, _| drop(answer.send(question(agent))));
        let asked = async {
            self.looks.send(look).await.ok()?;
            answered.await.ok()
        };
        tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
    }
}
