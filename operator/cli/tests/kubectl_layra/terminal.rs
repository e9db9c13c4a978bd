//! Colours and the live view, in a pseudo-terminal of `script` (util-linux).

use super::status_command::two;
use super::*;

/// What the command writes to a terminal of 100 columns.
fn at_a_terminal(server: &ApiServer, arguments: &str, variables: &[(&str, &str)]) -> String {
    let command = format!(
        "stty cols 100 rows 30; timeout --signal=INT 4 {} {arguments}",
        env!("CARGO_BIN_EXE_kubectl-layra")
    );
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("KUBECONFIG", server.directory.path().join("config"))
        .env("TERM", "xterm-256color")
        .env("SHELL", "/bin/sh")
        .env_remove("NO_COLOR")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn colours_are_for_terminals_only() {
    let server = ApiServer::start(two());
    let coloured = at_a_terminal(&server, "status", &[]);
    assert!(coloured.contains("\x1b[32mready\x1b[0m"), "{coloured:?}");
    assert!(
        coloured.contains("\x1b[31mnot ready\x1b[0m"),
        "{coloured:?}"
    );
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = at_a_terminal(&server, "status", &[variable]);
        assert!(plain.contains("not ready"), "{plain:?}");
        assert!(!plain.contains('\x1b'), "{variable:?}: {plain:?}");
    }
    // An empty value counts as absent.
    let coloured = at_a_terminal(&server, "status", &[("NO_COLOR", "")]);
    assert!(coloured.contains("\x1b[32m"), "{coloured:?}");
    // Not into a pipe.
    assert!(!server.run("status").output.contains('\x1b'));
}

#[test]
fn the_live_view_redraws_in_place_and_leaves_the_terminal_as_it_was() {
    let server = ApiServer::start(two());
    let screens = at_a_terminal(&server, "status --watch", &[]);
    assert!(screens.contains("\x1b[?1049h"), "{screens:?}");
    assert!(screens.matches("\x1b[H").count() >= 2, "{screens:?}");
    assert!(
        screens.contains("KafkaUnreachable: No broker answers."),
        "{screens:?}"
    );
    assert!(screens.contains("\x1b[?25h\x1b[?1049l"), "{screens:?}");
}
