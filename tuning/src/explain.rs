//! What ADD would do, told without a container.

use cni_common::cni::protocol::CniError;
use cni_common::cni::{AttachmentRequest, Explanation, Step, Surroundings};
use cni_common::kernel::{iproute, sysctl};

use crate::allowlist::Allowlist;
use crate::backend;
use crate::host::Namespace;
use crate::plan::Plan;
use crate::read;
use crate::setting::Setting;

/// What ADD does in a container in which nothing was tuned. This host's allowlist is asked.
///
/// # Errors
/// ADD would refuse the configuration or the previous result, or the allowlist a sysctl.
pub fn explain(
    request: &AttachmentRequest,
    _around: &Surroundings,
) -> Result<Explanation, CniError> {
    let config = read(request)?;
    let result = request.required_prev_result()?;
    let plan = Plan::new(&config);
    if plan.is_empty() {
        return Ok(Explanation::nothing("no setting is asked for", result));
    }
    let allowlist = Allowlist::for_plan(&plan, config.allowlist_strict)?;
    let wanted = plan.settings(|key| {
        let first = key.first_reading();
        allowlist.permit(key, first)?;
        Ok(first)
    })?;
    let mut recorder = Recorder { ifname: &request.attachment.ifname, made: Vec::new() };
    backend::set_all(&mut recorder, &wanted)?;
    let lines = recorder.made.iter().map(|setting| recorder.line(setting)).collect();
    let kept = format!(
        "what is there before is kept in {} for DEL, which gives it back",
        config.data_dir.display()
    );
    Ok(Explanation {
        steps: vec![Step::Note(kept), Step::InContainer(lines)],
        result: plan.reflect(result, recorder.ifname),
    })
}

/// A namespace that takes everything and only writes it down.
struct Recorder<'a> {
    ifname: &'a str,
    made: Vec<Setting>,
}

impl Recorder<'_> {
    fn line(&self, setting: &Setting) -> String {
        match setting {
            Setting::Sysctl { path, value } => {
                sysctl::line(&format!("net/{}", path.below_net()), value)
            }
            Setting::Link(setting) => iproute::change_link(self.ifname, &setting.change()),
        }
    }
}

impl Namespace for Recorder<'_> {
    fn current(&self, setting: &Setting) -> Result<Option<Setting>, CniError> {
        Ok(self.made.iter().rev().find(|made| made.same_property(setting)).cloned())
    }

    fn set(&mut self, setting: &Setting) -> Result<(), CniError> {
        self.made.push(setting.clone());
        Ok(())
    }
}
