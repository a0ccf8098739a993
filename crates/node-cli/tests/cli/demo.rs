//! `demo`: what it refuses before it begins. The tour itself is another test's.

use crate::home::Home;

#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let home = Home::new();
    let folder = home.path().join("full");
    std::fs::create_dir(&folder).unwrap();
    home.file("full/mine", "mine");
    let given = ["demo", "--runtimes", "none", "--models", "none", "--folder", folder.to_str().unwrap()];
    home.run(given).failed(2, &["is not empty", "--folder"]);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}
