//! Two of one node: a start that nobody has seen speaks while another one is connected (`docs/protocol.md`, section 2).
//!
//! The connected one is asked whether it lives. If it answers, the other came later and is refused; if its connection ends,
//! or it says nothing for [`ALIVE_LIMIT`], it is let go, and the other takes its place. So a node that was killed and
//! started again is not taken for its own copy.

use std::time::Duration;

use node_types::{
    BootId, NodeId, Timestamp,
    message::NodeMessage,
    protocol::{NetworkFrame, Signed},
};
use tokio::{sync::watch, time::timeout};

use super::{Core, Out, Shared, Trouble, encode};
use crate::{db::Boot, gate};

/// How long a connected start may take to answer: 8 seconds, below what a node waits for an answer of the network.
const ALIVE_LIMIT: Duration = Duration::from_secs(8);

/// A session that is asked whether it lives.
#[derive(Debug)]
pub(crate) struct Challenge {
    number: u64,
    nonce: u64,
    answered: watch::Sender<bool>,
}

/// What is waited for.
struct Asked {
    number: u64,
    answered: watch::Receiver<bool>,
}

impl Shared {
    /// Finds out whether a start that is connected lives, where a message comes from one that nobody has seen. Returns
    /// at once where there are no two.
    pub(crate) async fn ask_rival(&self, signed: &Signed) {
        let node = signed.message.node;
        if !self.look(|core| Ok(core.rival(&signed.message).is_some())).unwrap_or(false) {
            return;
        }
        let Ok(Some(Asked { number, mut answered })) = self.with(|core, now| core.challenge(signed, now))
        else {
            return;
        };
        if timeout(ALIVE_LIMIT, async { answered.wait_for(|it| *it).await.is_ok() }).await.is_err() {
            tracing::warn!(%node, "a connected start of a node does not answer and is let go");
            // Where the network is closed meanwhile, it knows no sessions any more.
            let _ = self.with(|core, now| {
                core.let_go(node, number, now);
                Ok(())
            });
        }
    }
}

impl Core {
    /// The start that is connected, if it is another one than the message's.
    pub(super) fn rival(&self, message: &NodeMessage) -> Option<BootId> {
        self.sessions.get(&message.node).map(|session| session.boot).filter(|boot| *boot != message.boot_id)
    }

    /// Why a start is refused.
    pub(super) fn already_running(&self, node: &NodeId, rival: &BootId) -> Result<String, Trouble> {
        let boots = self.db.boots(node)?;
        let name = rival.to_string();
        let since = boots.iter().find(|boot| boot["bootId"] == name).and_then(|boot| boot["since"].as_u64());
        let since = Timestamp::from_ms(since.unwrap_or(0));
        tracing::warn!(%node, %rival, "a node runs twice: the start that came later is refused");
        Ok(format!("{node} runs already: start {rival} is connected since {since} and answers"))
    }

    /// Asks the session of another start, if the message is sound and its start was never seen.
    fn challenge(&mut self, signed: &Signed, now: Timestamp) -> Result<Option<Asked>, Trouble> {
        let message = &signed.message;
        let node = message.node;
        let registered = self.db.is_registered(&node)?;
        // What does not count asks nobody; the message itself is refused later.
        if gate::check(signed, &self.domain(), |_| registered, now).is_err()
            || self.db.boot(&node, &message.boot_id)? != Boot::New
        {
            return Ok(None);
        }
        let Some(session) = self.sessions.get(&node).filter(|session| session.boot != message.boot_id) else {
            return Ok(None);
        };
        let number = session.number;
        let asked = self.challenges.get(&node).filter(|it| it.number == number && !*it.answered.borrow());
        if let Some(asked) = asked {
            return Ok(Some(Asked { number, answered: asked.answered.subscribe() }));
        }
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce)
            .map_err(|_| Trouble::Impossible("the operating system gives no random numbers".to_owned()))?;
        let nonce = u64::from_be_bytes(nonce);
        // Past all faults on command: they are not about this.
        let _ = session.out.send(Out::Raw(encode(&NetworkFrame::Ping { nonce })));
        let (sender, answered) = watch::channel(false);
        self.challenges.insert(node, Challenge { number, nonce, answered: sender });
        Ok(Some(Asked { number, answered }))
    }

    /// A connected start has answered a ping.
    pub(super) fn lives(&self, node: NodeId, nonce: u64) {
        if let Some(challenge) = self.challenges.get(&node).filter(|it| it.nonce == nonce) {
            challenge.answered.send_replace(true);
        }
    }

    fn let_go(&mut self, node: NodeId, number: u64, now: Timestamp) {
        if let Some(session) = self.sessions.get(&node).filter(|session| session.number == number) {
            session.cut.notify_one();
            self.disconnect(node, number, now);
        }
    }
}
