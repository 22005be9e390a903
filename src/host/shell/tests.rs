//! One contract for every shell: this machine, a command, and a command whose programs are busybox's.

use super::*;

/// A shell that is "reached" by a command which runs what follows it.
fn by_command(words: &[&str]) -> Remote {
    Remote::command(words.iter().copied(), Path::new("/"))
}

fn shells() -> Vec<(&'static str, Box<dyn Shell>)> {
    let plain = ["sh", "-c", r#"exec "$@""#, "sh"];
    let mut all: Vec<(&str, Box<dyn Shell>)> =
        vec![("local", Box::new(Local)), ("command", Box::new(by_command(&plain)))];
    if std::process::Command::new("busybox").arg("true").output().is_ok_and(|o| o.status.success()) {
        // Nothing but busybox on the path, as on a small host.
        let folder = Box::leak(Box::new(tempfile::tempdir().unwrap()));
        let run = |args: &[&str]| std::process::Command::new("busybox").args(args).output().unwrap();
        let list = run(&["--list"]);
        for name in String::from_utf8_lossy(&list.stdout).lines() {
            let _ = std::os::unix::fs::symlink("/usr/bin/busybox", folder.path().join(name));
        }
        let path = folder.path().to_str().unwrap();
        let script = format!(r#"PATH={path}; export PATH; exec "$@""#);
        all.push(("busybox", Box::new(by_command(&["/usr/bin/busybox", "sh", "-c", &script, "sh"]))));
    } else {
        println!("SKIPPED: no busybox here to try the scripts with");
    }
    all
}

fn text(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn files_are_the_same_through_every_shell() {
    for (name, shell) in shells() {
        let folder = tempfile::tempdir().unwrap();
        let odd = text(&folder, "it's $(odd) `n\\ame` * ä");
        let bytes: Vec<u8> = (0..=255u8).cycle().take(100_000).collect();
        assert!(shell.read(&odd, 10).await.unwrap_err().is_missing(), "{name}");
        assert!(shell.read_end(&odd, 10).await.unwrap_err().is_missing(), "{name}");
        assert_eq!(shell.size(&odd).await.unwrap(), None, "{name}");
        assert_eq!(shell.remove(&odd).await, Ok(false), "{name}");
        assert!(shell.rename(&odd, &text(&folder, "b")).await.unwrap_err().is_missing(), "{name}");
        assert!(shell.write(&text(&folder, "no/a"), Vec::new(), 0o600).await.unwrap_err().is_missing(), "{name}");

        shell.write(&odd, bytes.clone(), 0o640).await.unwrap();
        assert_eq!(shell.read(&odd, 1 << 20).await.unwrap(), bytes, "{name}");
        assert_eq!(shell.read(&odd, 7).await.unwrap(), bytes[..7], "{name}");
        assert_eq!(shell.read_end(&odd, 7).await.unwrap(), bytes[bytes.len() - 7..], "{name}");
        assert_eq!(shell.size(&odd).await.unwrap(), Local.size(&odd).await.unwrap(), "{name}");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&odd).unwrap().permissions().mode() & 0o7777, 0o640, "{name}");
        shell.write(&odd, b"shorter".to_vec(), 0o600).await.unwrap();
        assert_eq!(shell.read(&odd, 100).await.unwrap(), b"shorter", "{name}");

        let empty = text(&folder, ".hidden\nname");
        shell.write(&empty, Vec::new(), 0o600).await.unwrap();
        let here = folder.path().to_str().unwrap();
        let names = shell.list(here).await.unwrap();
        assert_eq!(names, Local.list(here).await.unwrap(), "{name}");
        assert_eq!(names.len(), 2, "{name}: nothing half-done stays");
        assert_eq!(shell.list(&text(&folder, "no")).await.unwrap(), Vec::<String>::new(), "{name}");
        assert!(!shell.list(&odd).await.unwrap_err().is_missing(), "{name}: a file is no folder");

        let moved = text(&folder, "-moved");
        shell.rename(&odd, &moved).await.unwrap();
        assert_eq!(shell.remove(&moved).await, Ok(true), "{name}");
        let deep = text(&folder, "a/b c/d");
        shell.make_folder(&deep).await.unwrap();
        shell.make_folder(&deep).await.unwrap();
        assert!(std::fs::metadata(&deep).unwrap().is_dir());
        assert!(shell.write(&deep, b"x".to_vec(), 0o600).await.is_err(), "{name}: never over a folder");
        let (there, above) = (shell.free(&deep).await.unwrap(), Local.free(&text(&folder, "x/y")).await.unwrap());
        assert!(there.abs_diff(above) < 1 << 28, "{name}: {there} and {above}");
        assert!(shell.free(&text(&folder, "no/such/folder")).await.is_ok(), "{name}");
    }
}

#[tokio::test]
async fn programs_end_alike_through_every_shell() {
    for (name, shell) in shells() {
        let said = shell.run(Program::new(["cat"]).stdin("in\0put")).await.unwrap();
        assert_eq!((said.status, said.stdout.as_slice()), (0, b"in\0put".as_slice()), "{name}");
        for status in [1, 44, 124, 127, 254, 255] {
            let script = format!("echo words >&2; exit {status}");
            let ended = shell.run(Program::new(["sh", "-c", &script])).await.unwrap();
            assert_eq!((ended.status, ended.stderr.trim()), (status, "words"), "{name}");
        }
        let args = ["sh", "-c", r#"printf '%s|' "$@""#, "sh", "", "a b", "it's", "$(id)", "*", "\\"];
        let said = shell.run(Program::new(args)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), "|a b|it's|$(id)|*|\\|", "{name}");
        let none = shell.run(Program::new(["no-such-program-anywhere", "-x"])).await;
        assert_eq!(none, Err(ShellError::NoProgram("no-such-program-anywhere".to_owned())), "{name}");
        let slow = shell.run(Program::new(["sleep", "30"]).limit(Duration::from_secs(1))).await;
        assert_eq!(slow, Err(ShellError::TimedOut("sleep 30".to_owned(), 1)), "{name}");
        // More than a pipe holds, in both directions at once.
        let much = vec![7u8; 3 << 20];
        let said = shell.run(Program::new(["cat"]).stdin(much.clone())).await.unwrap();
        assert!(said.stdout == much, "{name}");
    }
}

#[tokio::test]
async fn no_connection_is_an_unknown_outcome() {
    let cut = by_command(&["sh", "-c", "echo 'no route to host' >&2; exit 255", "sh"]);
    let lost = cut.read("/etc/hostname", 10).await.unwrap_err();
    assert!(lost.is_unknown() && !lost.is_missing(), "{lost:?}");
    assert!(lost.to_string().ends_with("cannot be reached: no route to host"), "{lost}");
    assert_eq!(crate::execute::StepError::from(lost.clone()), crate::execute::StepError::Unknown(lost.to_string()));
    let none = by_command(&["/no/such/command"]).size("/").await.unwrap_err();
    assert!(matches!(none, ShellError::NoLink { .. }) && !none.is_unknown(), "{none:?}");
}

#[tokio::test]
async fn a_file_of_which_half_arrives_is_not_written() {
    // The way breaks after 10 bytes: what is on the host sees the end of its input.
    let cut = by_command(&["sh", "-c", r#"head -c 10 | "$@""#, "sh"]);
    let folder = tempfile::tempdir().unwrap();
    let path = text(&folder, "a");
    std::fs::write(&path, "before").unwrap();
    let broke = cut.write(&path, vec![1; 100], 0o600).await.unwrap_err();
    assert!(broke.to_string().contains("broke"), "{broke}");
    assert_eq!(std::fs::read(&path).unwrap(), b"before");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn large_files_go_between_all_shells_with_their_holes() {
    use crate::execute::NoProgress;
    let folder = tempfile::tempdir().unwrap();
    let from = text(&folder, "from");
    // Data, a hole, a lonely byte, a hole, and an end that is no whole block.
    let mut bytes: Vec<u8> = (0..=255u8).cycle().take(200_000).collect();
    bytes.resize(20 << 20, 0);
    bytes[10 << 20] = 1;
    bytes.extend_from_slice(&[9; 1000]);
    std::fs::write(&from, &bytes).unwrap();
    std::process::Command::new("fallocate").args(["--dig-holes", &from]).output().unwrap();
    for (give, source) in shells() {
        for (take, target) in shells() {
            let to = text(&folder, "to");
            copy_between(source.as_ref(), &from, target.as_ref(), &to, &NoProgress).await.unwrap();
            assert!(std::fs::read(&to).unwrap() == bytes, "{give} to {take}");
            let (_, used) = Local.size(&to).await.unwrap().unwrap();
            assert!(used < 2 << 20, "{give} to {take}: {used} bytes used");
            std::fs::remove_file(&to).unwrap();
        }
    }
    for (name, shell) in shells() {
        let to = text(&folder, "to");
        put_stream(shell.as_ref(), &to, bytes.as_slice(), 0o644, &NoProgress).await.unwrap();
        assert!(std::fs::read(&to).unwrap() == bytes, "{name}");
        std::fs::remove_file(&to).unwrap();
        let none = copy_between(shell.as_ref(), &text(&folder, "none"), &Local, &to, &NoProgress).await.unwrap_err();
        assert!(none.is_missing(), "{name}: {none}");
        let nowhere = copy_between(&Local, &from, shell.as_ref(), &text(&folder, "no/to"), &NoProgress).await;
        assert!(nowhere.is_err(), "{name}");
    }
    let empty = text(&folder, "empty");
    std::fs::write(&empty, b"").unwrap();
    for (name, shell) in shells() {
        copy_between(&Local, &empty, shell.as_ref(), &text(&folder, "to"), &NoProgress).await.unwrap();
        assert_eq!(std::fs::read(text(&folder, "to")).unwrap(), b"", "{name}");
    }
    std::fs::remove_file(text(&folder, "to")).unwrap();
    // A way that breaks off leaves nothing, at either end.
    let cut = by_command(&["sh", "-c", r#"head -c 300000 | "$@""#, "sh"]);
    assert!(copy_between(&Local, &from, &cut, &text(&folder, "to"), &NoProgress).await.is_err());
    let cut = by_command(&["sh", "-c", r#""$@" | head -c 100000"#, "sh"]);
    assert!(copy_between(&cut, &from, &Local, &text(&folder, "to"), &NoProgress).await.is_err());
    let left: Vec<String> = Local.list(folder.path().to_str().unwrap()).await.unwrap();
    assert_eq!(left, ["empty", "from"], "nothing half-done stays");
}
