//! What every plugin has to stand: the CNI protocol, and input that nobody should send. The cases are
//! written once; a plugin brings a sample of its configuration.

pub mod hostile;
pub mod protocol;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{Attachment, Call, Implementation, TestBox, in_box};

/// A plugin and a configuration with which it works.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The plugin's name.
    pub plugin: &'static str,
    /// Keys with which ADD makes something on the host or in the container; two containers, told by
    /// their numbers, are not in each other's way.
    pub keys: fn(u16) -> Value,
    /// The plugin's own keys; `null` means that they are not given.
    pub optional_keys: &'static [&'static str],
    /// What ADD and CHECK say without a prevResult.
    pub no_prev_result: &'static str,
    /// Whether DEL needs the container's namespace to take back what ADD made.
    pub del_needs_netns: bool,
}

/// A plugin in a box, and a container on a pair of veths to call it for.
#[derive(Debug)]
pub struct Subject<'a> {
    b: &'a TestBox,
    sample: &'a Sample,
    container: Attachment,
}

/// Runs a case of a suite in a box of its own. `test` is the test's full path.
pub fn run(test: &str, sample: &Sample, case: impl FnOnce(&Subject<'_>)) {
    in_box(test, Implementation::Ours, |b| case(&Subject::new(b, sample)));
}

impl<'a> Subject<'a> {
    /// The plugin of a sample in this box, with the container `c1`.
    pub fn new(b: &'a TestBox, sample: &'a Sample) -> Self {
        Self { b, sample, container: b.pair("c1", 1) }
    }

    /// A call for the container, with every variable that `command` can need.
    pub fn call(&self, command: &str, stdin: impl Into<Vec<u8>>) -> Call {
        Call::new(self.sample.plugin, command, &self.container)
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=p")
            .stdin(stdin)
    }

    /// A call without any variable or stdin.
    fn bare(&self) -> Call {
        Call::bare(self.sample.plugin).stdin("")
    }

    fn binary(&self) -> PathBuf {
        self.b.implementation.plugin(self.sample.plugin)
    }

    /// A configuration of the newest version that asks the plugin for nothing, changed by `changes`.
    pub fn config(&self, changes: &Value) -> String {
        let config = json!({
            "cniVersion": "1.1.0",
            "name": "net",
            "type": self.sample.plugin,
            "prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24"}]}
        });
        with(config, changes).to_string()
    }

    /// A configuration with which the plugin works, changed by `changes`.
    pub fn working(&self, changes: &Value) -> String {
        with(self.working_for(&self.container, 1), changes).to_string()
    }

    fn working_for(&self, attachment: &Attachment, number: u16) -> Value {
        let config = json!({
            "cniVersion": "1.1.0",
            "name": "net",
            "type": self.sample.plugin,
            "prevResult": attachment.result,
        });
        with(config, &(self.sample.keys)(number))
    }

    fn refused(&self, call: &Call) -> (u64, String, String) {
        let refusal = call.run(self.b).expect_refusal();
        (refusal.code, refusal.msg, refusal.details)
    }
}

fn with(mut config: Value, changes: &Value) -> Value {
    let changes = changes.as_object().expect("changes are an object");
    config.as_object_mut().expect("a configuration is an object").extend(changes.clone());
    config
}

/// The module `protocol`: the cases of [`protocol`] for the plugin of a `Sample` constant.
#[macro_export]
macro_rules! protocol_suite {
    ($sample:ident) => {
        $crate::suite! { protocol $sample:
            ps01_ps02_without_a_command_it_says_what_it_is
            ps03_ps04_version_needs_neither_stdin_nor_variables
            ps05_ps06_ps08_ps15_missing_variables_are_named_in_order
            ps07_args_are_optional
            ps09_gc_and_status_ignore_the_attachments_variables
            ps10_ps11_unknown_commands
            ps12_container_ids
            ps13_interface_names
            ps14_a_bad_value_is_reported_before_a_missing_one
            ps20_stdin_that_is_no_json_object
            ps21_ps22_network_names
            ps23_a_stdin_that_cannot_be_read
            ps24_no_version_means_the_first
            ps25_versions_match_exactly
            ps26_the_name_is_judged_first
            ps27_ps28_younger_commands_need_younger_versions
            ps29_keys_match_without_case_and_the_last_one_wins
            ps30_nulls_and_unknown_keys
            ps31_capabilities_are_booleans
            ps32_ps33_odd_and_large_strings
            ps40_to_ps43_ps49_ps51_results_pass_through_in_every_version
            ps44_to_ps46_any_known_version_of_prev_result
            ps47_ps48_empty_missing_and_broken_prev_results
            ps52_ps53_ps54_a_result_that_cannot_be_written_is_a_failure
            ps60_to_ps62_del_succeeds_with_little_to_go_by
            ps68_the_plugins_own_namespace_is_refused
            closed_descriptors_are_not_taken_by_others
            a_broken_pipe_is_no_signal_and_no_panic
        }
    };
}

/// The module `hostile`: the cases of [`hostile`] for the plugin of a `Sample` constant.
#[macro_export]
macro_rules! hostile_suite {
    ($sample:ident) => {
        $crate::suite! { hostile $sample:
            a_number_that_is_none
            container_ids_and_interface_names
            interface_names_that_no_ruleset_can_hold_are_refused
            network_names
            long_names_work_and_leave_nothing
            json_that_ends_too_early
            json_that_is_not_one_document
            a_configuration_without_an_end
            the_longest_configuration_takes_ten_times_its_length_of_memory
            a_huge_unknown_key_is_nobodys_problem
            previous_results
            namespaces
            options_of_every_plugin
            attachment_lists
        }
    };
}

/// The tests of a suite's cases.
#[doc(hidden)]
#[macro_export]
macro_rules! suite {
    ($suite:ident $sample:ident: $($case:ident)+) => {
        mod $suite {
            $(#[test]
            fn $case() {
                $crate::suite::run(
                    concat!(module_path!(), "::", stringify!($case)),
                    &super::$sample,
                    $crate::suite::$suite::$case,
                );
            })+
        }
    };
}

#[cfg(test)]
mod tests {
    /// A case that is in no list would never run.
    #[test]
    fn every_case_is_in_its_list() {
        let lists = include_str!("mod.rs");
        for cases in [include_str!("protocol.rs"), include_str!("hostile.rs")] {
            let names =
                cases.lines().filter_map(|line| line.strip_prefix("pub fn ")?.split('(').next());
            for name in names {
                assert!(lists.lines().any(|line| line.trim() == name), "{name}");
            }
        }
    }
}
