//! "Did you mean …": the nearest of some known words. Pure.

use crate::sys::gather::Gather;

/// Bytes of a word that is compared with the known keys: none is half as long, and the comparison
/// is quadratic.
const MAX_COMPARED_WORD: usize = 64;

/// The known word that the given one most likely meant, if one is near: at most a third of the
/// letters wrong.
pub fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    if given.len() > MAX_COMPARED_WORD {
        return None;
    }
    let given: Vec<char> = given.chars().map(|c| c.to_ascii_lowercase()).gather();
    known
        .iter()
        .map(|word| (distance(&given, &word.chars().gather()), word))
        .filter(|(distance, word)| *distance <= word.len().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| *word)
}

/// The end of an error about a word: the known one that it most likely meant, if one is near.
pub fn hint(given: &str, known: &[&str]) -> String {
    nearest(given, known).map_or(String::new(), |word| format!("; did you mean \"{word}\"?"))
}

/// Letters to insert, drop, replace or swap with their neighbour (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).gather();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = above[j] + usize::from(a[i] != b[j]);
            let mut best = replaced.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(a: &str, b: &str) -> usize {
        distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>())
    }

    #[test]
    fn distances_between_words_are_counted() {
        assert_eq!(between("", ""), 0);
        assert_eq!(between("", "abc"), 3);
        assert_eq!(between("abc", ""), 3);
        assert_eq!(between("lisen", "listen"), 1);
        assert_eq!(between("litsen", "listen"), 1);
        assert_eq!(between("kitten", "sitting"), 3);
    }

    #[test]
    fn only_a_similar_name_is_suggested() {
        let known = ["listen", "key_file", "allowed_hosts", "env"];
        assert_eq!(nearest("lisen", &known), Some("listen"));
        assert_eq!(nearest("LISTEN", &known), Some("listen"));
        assert_eq!(nearest("allowed_host", &known), Some("allowed_hosts"));
        assert_eq!(nearest("envs", &known), Some("env"));
        assert_eq!(nearest("zebra", &known), None);
        assert_eq!(nearest("", &known), None);
        assert_eq!(nearest(&"x".repeat(100_000), &known), None);
    }
}
