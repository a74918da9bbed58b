//! Every kept input of every target is taken as it should be.

use std::{fs, path::PathBuf};

use fuzz::TARGETS;

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

#[test]
fn the_corpus_is_replayed() {
    let mut total = 0;
    for target in TARGETS {
        let mut inputs: Vec<PathBuf> = fs::read_dir(corpus().join(target.name))
            .unwrap_or_else(|error| panic!("{} has no corpus: {error}", target.name))
            .map(|entry| entry.unwrap().path())
            .collect();
        inputs.sort();
        assert!(inputs.len() >= 3, "{} has {} inputs", target.name, inputs.len());
        for path in &inputs {
            let input = fs::read(path).unwrap();
            total += input.len();
            // Shown only where it fails: the input that did it.
            eprintln!("{}", path.display());
            target.run(&input);
        }
        target.run(&[]);
    }
    assert!(total < 2 << 20, "the corpus has {total} bytes: minimise it");
}

#[test]
fn each_target_has_its_program_and_each_program_its_target() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("targets");
    let mut programs: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    programs.sort();
    assert_eq!(programs, names);
}
