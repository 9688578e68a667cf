//! Bad input to the binary: one clear line on stderr that names the thing and what to do, and the exit status that
//! docs/operations.md promises. What needs root is in the tests package.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

/// Runs the binary with nothing from this process's environment.
fn lb_agent(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lb-agent")).args(args).env_clear().output().expect("the binary starts")
}

/// Checks the exit status and that each of `words` is in stderr.
#[track_caller]
fn fails(args: &[&str], status: i32, words: &[&str]) -> String {
    let output = lb_agent(args);
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(status), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
    text
}

/// As [`fails`], and stderr is one line besides the log.
#[track_caller]
fn fails_in_one_line(args: &[&str], status: i32, words: &[&str]) {
    let text = fails(args, status, words);
    // The log's lines begin with the time.
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("20")).collect();
    assert!(lines.len() == 1 && lines[0].starts_with("lb-agent: "), "{text}");
    for word in words {
        assert!(lines[0].contains(word), "{word:?} is not in {:?}", lines[0]);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn run_without_a_source_names_the_three_ways() {
    fails_in_one_line(&["run"], 2, &["--kubeconfig", "--manifests", "in-cluster"]);
}

#[test]
fn a_variable_that_is_empty_counts_as_absent() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb-agent"));
    command.args(["run", "--manifests", "/nonexistent/manifests"]).env_clear();
    for name in ["LB_API_SERVERS", "LB_KUBECONFIG", "LB_NODE_NAME", "LB_MAX_BACKENDS", "LB_LOG_FORMAT", "LB_DEVICES"] {
        command.env(name, "");
    }
    let output = command.output().expect("the binary starts");
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("/nonexistent/manifests"), "{text}");
}

#[test]
fn two_sources_are_a_usage_error() {
    fails(&["run", "--kubeconfig", "k", "--manifests", "m"], 2, &["--kubeconfig", "--manifests"]);
}

#[test]
fn flags_with_impossible_values_are_usage_errors_that_name_the_flag() {
    for (flag, value) in [
        ("--metrics-address", "127.0.0.1:70000"),
        ("--healthz-address", "127.0.0.1:0"),
        ("--devices", "eth0/1"),
        ("--nodeport-addresses", "10.0.0.0/33"),
        ("--socket-lb-exclude", "kubepods/[a"),
        ("--api-servers", "https://192.0.2.1:70000"),
        ("--max-frontends", "0"),
        ("--max-backends", "many"),
        ("--log-format", "xml"),
    ] {
        fails(&["run", flag, value], 2, &[flag, value]);
    }
}

#[test]
fn a_log_filter_that_does_not_parse_is_a_usage_error() {
    fails_in_one_line(&["run", "--manifests", "m", "--log-level", "lb_agent=loud"], 2, &["--log-level", "loud"]);
}

#[test]
fn a_manifest_directory_that_is_missing_or_a_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    fails_in_one_line(&["run", "--manifests", path(&missing)], 78, &[path(&missing), "does not exist"]);
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    fails_in_one_line(&["run", "--manifests", path(&file)], 78, &[path(&file), "not a directory"]);
}

#[test]
fn a_kubeconfig_that_is_missing_or_does_not_parse_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    fails_in_one_line(&["run", "--kubeconfig", path(&missing)], 78, &["kubeconfig", path(&missing)]);
    let broken = directory.path().join("broken");
    for text in ["clusters: [", "- 1\n", "apiVersion: v1\nkind: Config\ncurrent-context: nowhere\n"] {
        fs::write(&broken, text).unwrap();
        fails_in_one_line(&["run", "--kubeconfig", path(&broken)], 78, &["kubeconfig", path(&broken)]);
    }
}

const CLUSTER: &str = "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}]\n\
                       contexts: [{name: c, context: {cluster: a, user: u}}]\ncurrent-context: c\n";

#[test]
fn what_a_kubeconfig_holds_is_not_said_where_it_does_not_parse() {
    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("broken");
    fs::write(&broken, format!("{CLUSTER}users:\n- name: u\n  user:\n    token: geheim\n     x: [\n")).unwrap();
    let args = ["run", "--kubeconfig", path(&broken)];
    fails_in_one_line(&args, 78, &["line 10", "mapping values are not allowed"]);
    assert!(!fails(&args, 78, &[]).contains("geheim"));
}

#[test]
fn a_credential_plugin_that_is_not_there_is_named_and_its_trouble_said_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("plugin");
    let exec = "{apiVersion: client.authentication.k8s.io/v1, command: /nonexistent/plugin, interactiveMode: Never}";
    fs::write(&file, format!("{CLUSTER}users: [{{name: u, user: {{exec: {exec}}}}}]\n")).unwrap();
    let args = ["run", "--kubeconfig", path(&file)];
    fails_in_one_line(&args, 78, &[path(&file), "credential plugin /nonexistent/plugin"]);
    assert_eq!(fails(&args, 78, &[]).matches("No such file or directory").count(), 1);
}

#[test]
fn a_tool_without_a_bpf_file_system_names_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    for tool in ["services", "backends", "status"] {
        fails_in_one_line(&[tool, "--bpffs", path(directory.path())], 69, &[path(directory.path()), "BPF file system"]);
    }
}

#[test]
fn the_tools_take_no_two_namespaces_at_once() {
    fails_in_one_line(&["services", "-n", "a", "b/web"], 2, &["two namespaces"]);
}
