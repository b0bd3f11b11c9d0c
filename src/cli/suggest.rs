//! Suggestions for unknown words.

use spapr_iommu::model::{Preset, PresetError};

const MACHINES: [&str; 4] = ["powernv8", "powernv9", "powernv10", "pseries"];
const OPTIONS: [&str; 7] = ["4k", "64k", "6.12", "7.2", "noddw", "1window", "pgsz=0x11000"];

/// Required similarity of two words, from 0 to 1: one letter in six may be wrong.
const ALIKE: f64 = 0.8;

/// Parses a preset, or says what may have been meant.
pub(crate) fn preset(text: &str) -> Result<Preset, String> {
    text.parse::<Preset>().map_err(|error| {
        let corrected = match &error {
            PresetError::UnknownMachine { name } => corrected(text, name, &MACHINES),
            PresetError::UnknownWord { word, .. } => corrected(text, word, &OPTIONS),
            _ => None,
        };
        match corrected {
            Some(other) => format!("{error}; did you mean {other}?"),
            None => error.to_string(),
        }
    })
}

/// Replaces a word of a preset by the known word that is most similar, if that makes a preset.
fn corrected(text: &str, wrong: &str, known: &[&str]) -> Option<String> {
    let nearest = nearest(wrong, known)?;
    let words: Vec<_> = text.split('-').map(|word| if word == wrong { nearest } else { word }).collect();
    let other = words.join("-");
    other.parse::<Preset>().is_ok().then_some(other)
}

fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = wrong.to_lowercase();
    let alike = |word: &&str| strsim::jaro_winkler(&lower, word);
    let best = known.iter().copied().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
    (alike(&best) >= ALIKE).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_with_a_slip_is_recognised() {
        let meant = |text| preset(text).unwrap_err().split_once("did you mean ").map(|(_, meant)| meant.to_owned());
        assert_eq!(meant("powrnv9").as_deref(), Some("powernv9?"));
        assert_eq!(meant("power9-4k").as_deref(), Some("powernv9-4k?"));
        assert_eq!(meant("pSeries").as_deref(), Some("pseries?"));
        assert_eq!(meant("pseries-64K-7.2").as_deref(), Some("pseries-64k-7.2?"));
        assert_eq!(meant("pseries-nodww").as_deref(), Some("pseries-noddw?"));
        assert_eq!(meant("x86"), None);
        assert_eq!(meant("powernv9-noddw"), None, "not an option of that machine");
        assert!(preset("powernv9-4k").is_ok());
    }

    #[test]
    fn what_is_suggested_exists() {
        for word in MACHINES {
            assert!(word.parse::<Preset>().is_ok(), "{word}");
        }
        for word in OPTIONS {
            assert!(format!("pseries-{word}").parse::<Preset>().is_ok(), "{word}");
        }
    }
}
