//! Pictures of empty, tiny, huge and crowded address spaces: nothing overlaps, nothing is cut.

use snapbox::{Data, assert_data_eq};
use spapr_iommu_cli::picture::{Memory, Region, Run, Space, StepPart, Steps, Window, addresses, steps};
use spapr_iommu_cli::plan::{PlanHost, Wanted, plan};
use std::path::Path;

const GIB: u64 = 1 << 30;
const WIDTH: f64 = 960.0;

/// Reference pictures: look at each change of them.
const KEPT: [&str; 7] = ["empty", "tiny", "two-windows", "huge", "names", "plan-pseries", "20-steps"];

fn window(start: u64, size: u64) -> Window {
    Window { start, size, page: 0x1_0000, note: "requested".into() }
}

fn run(iova: u64, size: u64, user: u64, access: &str) -> Run {
    Run { iova, size, user, access: access.into() }
}

fn region(start: u64, size: u64) -> Region {
    Region { start, size, name: None }
}

fn memory(title: &str, windows: Vec<Window>, runs: Vec<Run>, regions: Vec<Region>) -> Memory {
    let space = Space { name: "main".into(), windows, runs, more_runs: 0 };
    Memory { title: title.into(), about: "a test".into(), spaces: vec![space], regions }
}

/// The cases, each with the name of its file.
fn cases() -> Vec<(&'static str, Memory)> {
    const USER: u64 = 0x7f00_0000_0000;
    const HIGH: u64 = 1 << 59;
    let scattered = |count: u64| {
        let page = 0x1_0000;
        (0..count).map(move |n| {
            run(HIGH + 3 * n * page, page, USER + (n * 7919 % count) * page, ["r", "w", "rw"][n as usize % 3])
        })
    };
    let names = ["ram", "a name that is much longer than there is room for in any column of the picture"];
    let named = |number: usize| Region {
        start: (number as u64) << 40,
        size: 4 * GIB,
        name: Some((names[number].into(), 0x1000)),
    };
    vec![
        ("empty", Memory { title: "Nothing at all".into(), ..Memory::default() }),
        ("window", memory("A window alone", vec![window(0, GIB)], vec![], vec![region(USER, GIB)])),
        (
            "tiny",
            memory(
                "One page",
                vec![window(0, GIB)],
                vec![run(0x1000, 0x1000, USER, "r")],
                vec![region(USER, 0x1_0000)],
            ),
        ),
        (
            "two-windows",
            memory(
                "Two windows",
                vec![window(0, 2 * GIB), window(HIGH, 64 * GIB)],
                vec![
                    run(1 << 20, 1 << 20, USER, "rw"),
                    run(HIGH, GIB, USER, "rw"),
                    run(HIGH + 2 * GIB, GIB / 2, USER + 2 * GIB, "r"),
                ],
                vec![region(USER, 4 * GIB)],
            ),
        ),
        (
            "huge",
            memory(
                "Everything there is",
                vec![window(0, 1 << 62), window(1 << 63, (1 << 63) - 1)],
                vec![run(0, 1 << 61, 0, "rw"), run(u64::MAX - 0x1_0000, 0x1_0000, u64::MAX - 0x1_0000, "w")],
                vec![region(0, 1 << 62), region(u64::MAX - 0x1_0000, 0x1_0000)],
            ),
        ),
        ("100-runs", memory("100 runs", vec![window(HIGH, GIB)], scattered(100).collect(), vec![region(USER, GIB)])),
        (
            "10000-runs",
            memory(
                &"Ten thousand runs, with a title that is too long ".repeat(3),
                vec![window(HIGH, 64 * GIB)],
                scattered(10_000).collect(),
                (0..1000).map(|n| region(USER + n * 10 * 0x1_0000, 10 * 0x1_0000)).collect(),
            ),
        ),
        (
            "names",
            memory(
                "Named memory <&\"\u{7}>",
                vec![window(0, GIB)],
                vec![
                    run(0, GIB / 2, 0x1_0000, "rw"),
                    run(GIB / 2, GIB / 4, (1 << 40) + GIB, "r"),
                    run(2 * GIB, GIB, 9 << 40, "w"),
                ],
                vec![named(0), named(1)],
            ),
        ),
        (
            "many-spaces",
            Memory {
                title: "More spaces than are drawn".into(),
                spaces: (0..11)
                    .map(|n| Space {
                        name: format!("space {n}"),
                        windows: vec![window(0, GIB)],
                        runs: vec![run(n << 20, 1 << 20, USER + (n << 20), "rw")],
                        more_runs: 5,
                    })
                    .collect(),
                regions: vec![region(USER, 16 << 20)],
                ..Memory::default()
            },
        ),
    ]
}

/// Plans for machines that differ in their windows, each with the name of its file.
fn plans() -> Vec<(&'static str, Memory)> {
    let plan = |preset: &str, devices: &[u32], memory| {
        let mut wanted = Wanted::new(memory);
        wanted.devices = devices.to_vec();
        let plan = plan(&PlanHost::model(preset.parse().unwrap()), &wanted).unwrap();
        Memory::of_plan(&plan.chosen.unwrap(), &format!("A plan for {preset}"))
    };
    vec![
        ("plan-powernv9", plan("powernv9-64k", &[64], 8 * GIB)),
        ("plan-powernv8", plan("powernv8-4k", &[32], GIB)),
        ("plan-pseries", plan("pseries-64k", &[64, 32], GIB)),
    ]
}

fn step(number: u64) -> StepPart {
    StepPart {
        name: ["attach", "register", "window", "a-very-long-name-of-a-step"][number as usize % 4].into(),
        calls: [number % 2, number % 17, number % 5, number % 3 / 2, 1],
        registered: (number % 10) << 20,
        tables: number << 16,
    }
}

fn runs() -> Vec<(&'static str, Steps)> {
    let run = |count: u64| Steps {
        title: format!("{count} steps"),
        about: "a test".into(),
        steps: (0..count).map(step).collect(),
        each: 1,
    };
    vec![
        ("0-steps", run(0)),
        ("1-step", run(1)),
        ("20-steps", run(20)),
        ("100-steps", run(100)),
        ("5000-steps", run(5000)),
    ]
}

/// All pictures. `PICTURES=folder cargo test --test picture` writes them for people to look at.
fn all() -> Vec<(&'static str, String)> {
    let memories = cases().into_iter().chain(plans()).map(|(name, memory)| (name, addresses(&memory)));
    memories.chain(runs().into_iter().map(|(name, run)| (name, steps(&run)))).collect()
}

/// A box around what is drawn: left, top, right, bottom.
type Bounds = [f64; 4];

/// Reads a number of an element.
fn number(element: &svg::node::Attributes, name: &str) -> f64 {
    element.get(name).and_then(|value| value.parse().ok()).unwrap_or(0.0)
}

/// Finds where text is, assuming the widest characters, and the corners of everything else.
fn bounds(picture: &str) -> (f64, Vec<(String, Bounds)>, Vec<Bounds>) {
    use svg::parser::Event;
    let (mut texts, mut shapes, mut height) = (Vec::new(), Vec::new(), 0.0);
    let mut open: Option<(svg::node::Attributes, String)> = None;
    for event in svg::read(picture).unwrap() {
        match event {
            Event::Tag("svg", svg::node::element::tag::Type::Start, attributes) => {
                height = number(&attributes, "height")
            }
            Event::Tag("rect", _, at) if at.contains_key("x") => {
                let [x, y, width, high] = ["x", "y", "width", "height"].map(|name| number(&at, name));
                shapes.push([x, y, x + width, y + high]);
            }
            Event::Tag("line", _, at) => {
                let [x1, y1, x2, y2] = ["x1", "y1", "x2", "y2"].map(|name| number(&at, name));
                shapes.push([x1.min(x2), y1.min(y2), x1.max(x2), y1.max(y2)]);
            }
            Event::Tag("text", svg::node::element::tag::Type::Start, at) => open = Some((at, String::new())),
            Event::Tag("title", ..) => {}
            Event::Text(text) => {
                if let Some((_, so_far)) = open.as_mut().filter(|(_, so_far)| so_far.is_empty()) {
                    *so_far = text.trim().replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
                }
            }
            Event::Tag("text", svg::node::element::tag::Type::End, _) => {
                let (at, text) = open.take().unwrap();
                let [x, y, size] = ["x", "y", "font-size"].map(|name| number(&at, name));
                let width = text.chars().count() as f64 * size * 0.58;
                let anchor = at.get("text-anchor").map(|anchor| anchor.to_string());
                let turned = at.contains_key("transform");
                let left = match anchor.as_deref() {
                    Some("end") => x - width,
                    Some("middle") => x - width / 2.0,
                    _ => x,
                };
                let found = if turned {
                    [x - width * 0.5, y, x, y + width * 0.87]
                } else {
                    [left, y - size * 0.75, left + width, y + size * 0.2]
                };
                if turned { shapes.push(found) } else { texts.push((text, found)) }
            }
            _ => {}
        }
    }
    (height, texts, shapes)
}

fn overlap(one: &Bounds, other: &Bounds) -> bool {
    one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3]
}

#[test]
fn nothing_is_cut_and_no_text_lies_on_other_text() {
    for (name, picture) in all() {
        if let Some(folder) = std::env::var_os("PICTURES") {
            std::fs::write(std::path::Path::new(&folder).join(format!("{name}.svg")), &picture).unwrap();
        }
        let (height, texts, shapes) = bounds(&picture);
        assert!(!texts.is_empty() && height > 0.0, "{name}");
        for [left, top, right, bottom] in texts.iter().map(|(_, bounds)| bounds).chain(&shapes) {
            let inside = *left >= 0.0 && *top >= 0.0 && *right <= WIDTH && *bottom <= height;
            assert!(inside, "{name}: {left} {top} {right} {bottom} of {height}");
        }
        for (at, (text, own)) in texts.iter().enumerate() {
            let other = texts[at + 1..].iter().find(|(_, other)| overlap(own, other));
            assert!(other.is_none(), "{name}: {text:?} {own:?} lies on {other:?}");
        }
    }
}

#[test]
fn pictures_are_as_they_were_looked_at() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/picture/snapshots");
    for (name, picture) in all().into_iter().filter(|(name, _)| KEPT.contains(name)) {
        assert_data_eq!(picture, Data::read_from(&folder.join(format!("{name}.svg")), None).raw());
    }
}

#[test]
fn a_crowded_picture_stays_small() {
    for (name, picture) in all() {
        assert!(picture.len() < 200_000, "{name}: {} bytes", picture.len());
        let (height, ..) = bounds(&picture);
        assert!(height < 6000.0, "{name}: {height}");
    }
}

#[test]
fn what_is_named_by_a_user_is_text_and_nothing_else() {
    let memory = cases().into_iter().find(|(name, _)| *name == "names").unwrap().1;
    let picture = addresses(&memory);
    assert!(picture.contains("Named memory &lt;&amp;\"&gt;"), "{picture}");
    assert!(picture.contains("ram+0x11000"), "an address is shown by the name of its memory");
    assert!(!picture.contains('\u{7}'));
}

#[test]
fn a_plan_shows_where_firmware_decides() {
    let picture = |name| addresses(&plans().into_iter().find(|(other, _)| *other == name).unwrap().1);
    assert!(picture("plan-pseries").contains("by firmware"));
    assert!(picture("plan-pseries").contains("in each of 2 containers"));
    assert!(picture("plan-powernv9").contains("dynamic") && !picture("plan-powernv9").contains("by firmware"));
}
