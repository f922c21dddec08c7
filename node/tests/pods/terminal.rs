//! Interactive programs: what a user would notice if the program were not run directly.

use crate::expect::Screen;
use crate::runner::Case;
use crate::world::{World, eventually, pod, processes_in};

pub(crate) const ALL: &[Case] = &[
    (
        "a_shell_in_a_pod_has_job_control",
        a_shell_in_a_pod_has_job_control,
    ),
    (
        "a_program_is_a_job_of_the_shell_outside",
        a_program_is_a_job_of_the_shell_outside,
    ),
    (
        "ctrl_c_ends_the_program_with_130",
        ctrl_c_ends_the_program_with_130,
    ),
    (
        "a_script_around_it_ends_with_ctrl_c",
        a_script_around_it_ends_with_ctrl_c,
    ),
    ("a_pipe_keeps_the_callers_group", a_pipe_keeps_the_callers_group),
    (
        "a_closed_terminal_leaves_nothing",
        a_closed_terminal_leaves_nothing,
    ),
    (
        "a_detached_program_has_no_terminal",
        a_detached_program_has_no_terminal,
    ),
];

/// Says when it runs: what the terminal echoes is no proof of that.
const SLEEP: &str = "sh -c 'echo run-$((40+2)); exec sleep 600'\n";

/// A shell outside, with `$E` as the beginning of a command in the pod.
fn shell(world: &World) -> Screen {
    let mut screen = Screen::new(world, &["sh", "-i"]);
    let here = std::env::current_exe().unwrap();
    let socket = world.socket();
    screen.sees("$ ").types(&format!(
        "E='{} as-enter --socket {} --pod a --'; echo set-$((40+2))\n",
        here.display(),
        socket.display()
    ));
    screen.sees("set-42").sees("$ ");
    screen
}

fn a_shell_in_a_pod_has_job_control(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    for inner in ["sh", "bash --norc"] {
        let mut screen = shell(world);
        screen.types(&format!("$E {inner} -i\n")).sees("$ ");
        // Ctrl-C ends what runs in the shell, not the shell.
        screen.types(SLEEP).sees("run-42").types("\x03").sees("$ ");
        screen.types("echo still-$((40+2))\n").sees("still-42").sees("$ ");
        // Ctrl-Z stops it, and it can be continued.
        screen.types(SLEEP).sees("run-42");
        let job = screen.foreground();
        screen.types("\x1a").sees("Stopped").sees("$ ");
        screen
            .types("jobs; echo listed-$((40+2))\n")
            .sees("Stopped")
            .sees("listed-42")
            .sees("$ ");
        screen
            .types("fg\n")
            .sees("exec sleep")
            .gives_terminal_to(job)
            .types("\x03")
            .sees("$ ");
        screen.types("echo back-$((40+2))\n").sees("back-42").sees("$ ");
        // Leaving it gives the terminal back, with its code.
        screen
            .types("exit 7\n")
            .sees("$ ")
            .types("echo code-$?\n")
            .sees("code-7")
            .sees("$ ");
        screen.types("exit\n");
        screen.hang_up();
    }
}

fn a_program_is_a_job_of_the_shell_outside(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    let mut screen = shell(world);
    // One process: a second one in the group may read a last line before it notices that it is stopped, here as
    // anywhere.
    screen
        .types("$E sh -c 'echo up-$((40+2)); exec cat'\n")
        .sees("up-42");
    screen.types("one\n").sees("one").sees("one");
    screen.types("\x1a").sees("Stopped").sees("$ ");
    screen
        .types("jobs; echo listed-$((40+2))\n")
        .sees("Stopped")
        .sees("listed-42")
        .sees("$ ");
    // In the background it stops again as soon as it wants to read.
    screen
        .types("bg\n")
        .sees("$ ")
        .types("sleep 0.3; jobs; echo again-$((40+2))\n");
    screen.sees("Stopped").sees("again-42").sees("$ ");
    screen
        .types("fg\n")
        .sees("exec cat")
        .types("two\n")
        .sees("two")
        .sees("two");
    screen
        .types("\x04")
        .sees("$ ")
        .types("echo code-$?\n")
        .sees("code-0")
        .sees("$ ");
    screen.types("exit\n");
    screen.hang_up();
}

fn ctrl_c_ends_the_program_with_130(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    let mut screen = shell(world);
    screen
        .types("$E sh -c 'echo up-$((40+2)); exec sleep 600'\n")
        .sees("up-42")
        .types("\x03")
        .sees("$ ");
    screen.types("echo code-$?\n").sees("code-130");
    screen
        .types("$E sh -c 'echo up-$((40+2)); exec sleep 600'\n")
        .sees("up-42")
        .types("\x1c")
        .sees("$ ");
    screen.types("echo code-$?\n").sees("code-131");
    screen.types("exit\n");
    screen.hang_up();
}

fn a_script_around_it_ends_with_ctrl_c(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    let mut screen = shell(world);
    screen
        .types("sh -c \"$E sh -c 'echo up-\\$((40+2)); exec sleep 600'; echo went-on\"\n")
        .sees("up-42");
    screen
        .types("\x03")
        .sees("$ ")
        .types("echo code-$? and-$((40+2))\n");
    // Had the script gone on, it would have said so before the prompt came back.
    screen.sees("code-130 and-42");
    screen.types("exit\n");
    screen.hang_up();
}

fn a_pipe_keeps_the_callers_group(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    let mut screen = shell(world);
    // The reader at the end of the pipe has the terminal, as `less` would need it.
    screen.types(
        "$E sh -c 'echo from' | (read line; echo $line-$((40+2)); read key </dev/tty; echo end-$key)\n",
    );
    screen.sees("from-42").types("key\n").sees("end-key").sees("$ ");
    screen
        .types("$E sh -c 'echo up-$((40+2)); exec sleep 600' | cat\n")
        .sees("up-42")
        .types("\x03")
        .sees("$ ");
    screen.types("echo here-$((40+2))\n").sees("here-42");
    screen.types("exit\n");
    screen.hang_up();
}

fn a_closed_terminal_leaves_nothing(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    let network = world
        .output_of("a", &["readlink", "/proc/self/ns/net"])
        .trim()
        .to_owned();
    for stopped in [false, true] {
        let mut screen = shell(world);
        screen
            .types("$E sh -c 'echo up-$((40+2)); exec sleep 600'\n")
            .sees("up-42");
        if stopped {
            screen.types("\x1a").sees("Stopped").sees("$ ");
        }
        assert!(!processes_in(&network).is_empty());
        screen.hang_up();
        let left = || processes_in(&network);
        assert!(
            eventually(|| left().is_empty()),
            "stopped: {stopped}, left: {:?}",
            left()
        );
    }
}

fn a_detached_program_has_no_terminal(world: &World) {
    world.start(&[]).create_pod(&pod("a", 2)).unwrap();
    let mut screen = shell(world);
    screen
        .types("${E%--} --detach -- sh -c 'exec 2>&-; (: </dev/tty) || echo none-$((40+2))'\n")
        .sees("none-42");
    screen.types("exit\n");
    screen.hang_up();
}
