//! What becomes of events whose agent is halted, or whose tenant is: marked, or letters that no plugin is shown.
//!
//! While nobody of the tenant is halted this is one atomic load a batch.

use super::{Judged, Leaving};
use crate::agents::{OnHalted, Tenant};

/// Marks the events of halted agents, or takes them out.
pub(crate) fn hold(judged: &mut Judged, tenant: &Tenant, policy: OnHalted) {
    if policy == OnHalted::Pass || tenant.is_quiet() {
        return;
    }
    let halts = tenant.halts();
    for event in 0..judged.checked.events.len() {
        let agent = judged.checked.events.agent(event);
        if !halts.hold(agent.as_deref()) {
            continue;
        }
        let index = u32::try_from(event).unwrap_or(u32::MAX);
        let agent = agent.map(std::borrow::Cow::into_owned).unwrap_or_default();
        match policy {
            OnHalted::Mark => judged.halted.push((index, agent)),
            // What leaves already for another reason keeps it.
            _ => drop(judged.leaving.entry(index).or_insert(Leaving::Halted { agent })),
        }
    }
}
