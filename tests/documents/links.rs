//! Links and the table of contents.

use super::{Document, documents, root};
use pulldown_cmark::{Event, Tag, TagEnd};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Returns the targets of a document's links and pictures.
fn links(document: &Document) -> Vec<String> {
    let targets = document.events().filter_map(|event| match event {
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => Some(dest_url.to_string()),
        _ => None,
    });
    targets.filter(|target| !target.contains("://")).collect()
}

/// Returns the anchor that GitHub and mdBook give a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().chars().filter(|&c| c.is_alphanumeric() || " -_".contains(c)).collect::<String>();
    kept.replace(' ', "-")
}

fn anchors(document: &Document) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut heading: Option<String> = None;
    for event in document.events() {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => found.extend(heading.take().map(|text| anchor(&text))),
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&text);
                }
            }
            _ => {}
        }
    }
    found
}

#[test]
fn each_link_leads_to_a_file_and_a_heading() {
    let mut checked = 0;
    for document in documents() {
        for link in links(&document) {
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => root().join(&document.path),
                file => root().join(document.path.parent().unwrap()).join(file),
            };
            assert!(target.exists(), "{} links to {link}", document.path.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let target = Document { path: target, text };
                assert!(anchors(&target).contains(heading), "{} links to {link}", document.path.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked} links");
}

#[test]
fn each_page_is_in_the_table_of_contents() {
    let folder = Path::new("docs");
    let text = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let listed: BTreeSet<_> = links(&Document { path: folder.join("SUMMARY.md"), text }).into_iter().collect();
    let pages = documents().into_iter().filter(|page| page.path.parent() == Some(folder));
    let pages: BTreeSet<_> = pages.map(|page| page.path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(listed, &pages - &BTreeSet::from(["SUMMARY.md".to_owned()]));
}

#[test]
fn each_picture_is_shown_and_has_a_title() {
    let shown: BTreeSet<_> = documents().iter().flat_map(links).collect();
    for entry in fs::read_dir(root().join("docs/pictures")).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        assert!(shown.iter().any(|link| link.ends_with(&format!("pictures/{name}"))), "{name} is shown");
        assert!(fs::read_to_string(entry.path()).unwrap().contains("<title"), "{name} has a title");
    }
}
