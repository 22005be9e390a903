//! A line diff for values of several lines (user data, scripts).

/// `- `, `+ ` and `  ` lines that turn `before` into `after`; unchanged runs keep two lines around a change.
///
/// Longest common subsequence by dynamic programming; past 2,000 × 2,000 lines everything counts as changed.
pub fn lines(before: &str, after: &str) -> Vec<String> {
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let mut marked: Vec<(char, &str)> = Vec::with_capacity(a.len() + b.len());
    if a.len() * b.len() > 4_000_000 {
        marked.extend(a.iter().map(|l| ('-', *l)));
        marked.extend(b.iter().map(|l| ('+', *l)));
    } else {
        let common = table(&a, &b);
        let (mut i, mut j) = (0, 0);
        while i < a.len() || j < b.len() {
            if i < a.len() && j < b.len() && a[i] == b[j] {
                marked.push((' ', a[i]));
                (i, j) = (i + 1, j + 1);
            } else if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
                marked.push(('-', a[i]));
                i += 1;
            } else {
                marked.push(('+', b[j]));
                j += 1;
            }
        }
    }
    fold(&marked)
}

/// Lengths of the longest common subsequence of each pair of suffixes.
fn table(a: &[&str], b: &[&str]) -> Vec<Vec<u32>> {
    let mut common = vec![vec![0u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    common
}

/// Leaves out unchanged lines further than two from a change.
fn fold(marked: &[(char, &str)]) -> Vec<String> {
    let near = |i: usize| {
        let (from, to) = (i.saturating_sub(2), (i + 3).min(marked.len()));
        marked[from..to].iter().any(|(mark, _)| *mark != ' ')
    };
    let mut out = Vec::new();
    let mut skipping = false;
    for (i, (mark, line)) in marked.iter().enumerate() {
        if near(i) {
            out.push(format!("{mark} {line}"));
            skipping = false;
        } else if !skipping {
            out.push("  ...".to_owned());
            skipping = true;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_changed_line_stands_with_its_neighbours() {
        let diff = super::lines("a\nb\nc\nd\ne", "a\nb\nc\nD\ne");
        assert_eq!(diff, ["  ...", "  b", "  c", "- d", "+ D", "  e"]);
    }
}
