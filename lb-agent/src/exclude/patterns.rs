//! What `--socket-lb-exclude` may say.

use std::str::FromStr;

use glob::{MatchOptions, Pattern};

/// As a shell reads paths: `*` and `?` stay within a component, `**` does not.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// Patterns of cgroup paths below the cgroup root, without a slash at the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupPatterns(Vec<Pattern>);

impl CgroupPatterns {
    /// Whether one of them matches.
    pub fn matches(&self, path: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches_with(path, OPTIONS))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for CgroupPatterns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::default());
        }
        text.split(',').map(pattern).collect::<Result<_, _>>().map(Self)
    }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    let wrong = |why: &str| {
        format!(
            "{text:?} is no pattern of cgroup paths such as kubepods.slice/**/*-pod*.slice or machine.slice/* ({why}); give \
             none, or patterns separated by commas"
        )
    };
    // As it stands in /proc/PID/cgroup.
    let path = text.strip_prefix('/').unwrap_or(text);
    if path.is_empty() {
        return Err(wrong("the cgroup root itself cannot be excluded"));
    }
    if text == "none" {
        return Err(wrong("none stands alone"));
    }
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(wrong("no cgroup has an empty component, . or .. in its path"));
    }
    Pattern::new(path).map_err(|error| wrong(error.msg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_paths_component_by_component() {
        let patterns: CgroupPatterns = "machine.slice/*,/kubepods.slice/**/mesh-?.scope".parse().unwrap();
        let matching = ["machine.slice/vm1", "kubepods.slice/a/b/mesh-1.scope", "kubepods.slice/mesh-2.scope"];
        assert_eq!(matching.map(|path| patterns.matches(path)), [true; 3]);
        let others = ["machine.slice", "machine.slice/a/b", "x/machine.slice/vm1", "kubepods.slice/mesh-10.scope"];
        assert_eq!(others.map(|path| patterns.matches(path)), [false; 4]);
    }

    #[test]
    fn none_is_no_pattern_and_stands_alone() {
        assert!("none".parse::<CgroupPatterns>().unwrap().is_empty());
        assert!("a,none".parse::<CgroupPatterns>().unwrap_err().contains("stands alone"));
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        for text in ["", "/", "a,", "a//b", "../a", "a/./b", "[a", "a**"] {
            let error = text.parse::<CgroupPatterns>().unwrap_err();
            assert!(error.contains("is no pattern of cgroup paths"), "{text}: {error}");
        }
    }
}
