use std::io::{Read as _, Write as _};

use proptest::prelude::*;

use super::*;

fn swap(marker: &str, with: &str) -> Swap {
    assert_eq!(marker.len(), with.len());
    Swap { marker: marker.into(), with: with.into() }
}

/// What should come out: the markers of the whole text, from its beginning, one after the other.
pub(in crate::host::marker) fn reference(text: &[u8], swaps: &[Swap]) -> (Vec<u8>, Vec<u64>) {
    let (mut out, mut counts, mut at) = (text.to_vec(), vec![0; swaps.len()], 0);
    while at < text.len() {
        match swaps.iter().position(|s| text[at..].starts_with(&s.marker)) {
            Some(number) => {
                out[at..at + swaps[number].with.len()].copy_from_slice(&swaps[number].with);
                counts[number] += 1;
                at += swaps[number].marker.len();
            }
            None => at += 1,
        }
    }
    (out, counts)
}

fn bytes_of(mut file: &File) -> Vec<u8> {
    let mut out = Vec::new();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut out).unwrap();
    out
}

/// Runs it over a file that holds `text`, once as a copy and once in place.
fn both(text: &[u8], swaps: &[Swap]) -> (Vec<u8>, Vec<u64>) {
    let mut from = tempfile::tempfile().unwrap();
    from.write_all(text).unwrap();
    let (extents, length) = data_of(&from).unwrap();
    let to = tempfile::tempfile().unwrap();
    to.set_len(length).unwrap();
    let counts = replace(&extents, &[from.try_clone().unwrap()], &Out::Copy(&to), swaps, |_| ()).unwrap();
    let again = replace(&extents, &[from.try_clone().unwrap()], &Out::InPlace(&from), swaps, |_| ()).unwrap();
    assert_eq!(counts, again);
    let out = bytes_of(&to);
    assert!(out == bytes_of(&from), "in place is as copied");
    (out, counts)
}

#[test]
fn a_marker_at_the_very_beginning_and_at_the_very_end() {
    let swaps = [swap("@@ADDRESS@@", "10.0.0.1   ")];
    let (out, counts) = both(b"@@ADDRESS@@ and @@ADDRESS@@", &swaps);
    assert_eq!((out.as_slice(), counts), (&b"10.0.0.1    and 10.0.0.1   "[..], vec![2]));
}

#[test]
fn what_only_begins_like_a_marker_stays() {
    let swaps = [swap("@@ADDRESS@@", "10.0.0.1   ")];
    let (out, counts) = both(b"@@ADDR@@ADDRESS@@ADDRESS@@", &swaps);
    // The second one lacks its beginning, which the first one has.
    assert_eq!((out.as_slice(), counts), (&b"@@ADDR10.0.0.1   ADDRESS@@"[..], vec![1]));
}

#[test]
fn a_value_that_is_a_marker_is_not_replaced_again() {
    let swaps = [swap("@@ADDRESS@@", "@@ADDRESS@@"), swap("%%NAME%%", "@@ADDRES")];
    let (out, counts) = both(b"%%NAME%%S@@@@ADDRESS@@", &swaps);
    assert_eq!((out.as_slice(), counts), (&b"@@ADDRESS@@@@ADDRESS@@"[..], vec![1, 1]));
}

#[test]
fn holes_stay_holes() {
    use std::os::unix::fs::MetadataExt as _;
    let from = tempfile::tempfile().unwrap();
    from.set_len(64 << 20).unwrap();
    from.write_all_at(b"@@ADDRESS@@", (32 << 20) - 5).unwrap();
    // Zeros that are written out are holes in the copy.
    from.write_all_at(&vec![0; 8 << 20], 40 << 20).unwrap();
    let (extents, length) = data_of(&from).unwrap();
    assert_eq!(length, 64 << 20);
    let to = tempfile::tempfile().unwrap();
    to.set_len(length).unwrap();
    let swaps = [swap("@@ADDRESS@@", "10.0.0.1   ")];
    let counts = replace(&extents, &[from], &Out::Copy(&to), &swaps, |_| ()).unwrap();
    assert_eq!(counts, [1]);
    assert!(to.metadata().unwrap().blocks() * 512 <= 16 << 10, "{} blocks", to.metadata().unwrap().blocks());
}

#[test]
fn what_is_not_in_a_file_is_not_mapped() {
    let part =
        |more: &str| format!(r#"[{{"start": 0, "length": 65536, "depth": 0, "zero": false, "data": true{more}}}]"#);
    let whole = r#", "offset": 327680, "filename": "/images/a.qcow2""#;
    let map = map_of(part(whole).as_bytes()).unwrap();
    assert_eq!((map.length, map.files.len(), map.extents[0].offset), (65536, 1, 327_680));
    // Compressed, as QEMU 7.2 and as QEMU 8.2 say it; a file in QEMU's own words.
    assert_eq!(map_of(part("").as_bytes()), None);
    assert_eq!(map_of(part(&format!(r#", "compressed": true{whole}"#)).as_bytes()), None);
    assert_eq!(map_of(part(r#", "offset": 0, "filename": "json:{}""#).as_bytes()), None);
}

/// Pieces that make borders and false beginnings likely.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let text = |t: &str| Just(t.as_bytes().to_vec());
    prop_oneof![
        text("@@ADDRESS@@"),
        text("%%NAME%%"),
        text("@@ADDRESS@"),
        text("@"),
        text("%%NAME%"),
        text("@@%%NAME%%"),
        proptest::collection::vec(any::<u8>(), 0..40),
        (0usize..9000).prop_map(|n| vec![0; n]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_the_parts_are_it_is_as_if_it_were_one_text(
        pieces in proptest::collection::vec(piece(), 0..60),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..12),
    ) {
        let text: Vec<u8> = pieces.concat();
        let swaps = [swap("@@ADDRESS@@", "10.0.0.1\0\0\0"), swap("%%NAME%%", "web-1   ")];
        prop_assert!(both(&text, &swaps) == reference(&text, &swaps));
        // The same in parts that lie in two files in another order.
        let mut borders: Vec<usize> = cuts.iter().map(|(i, _)| i.index(text.len() + 1)).collect();
        borders.extend([0, text.len()]);
        borders.sort_unstable();
        let files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        let (mut extents, mut ends) = (Vec::new(), [7u64, 100_000]);
        for (number, pair) in borders.windows(2).enumerate().collect::<Vec<_>>().into_iter().rev() {
            let (bytes, file) = (&text[pair[0]..pair[1]], number % 2);
            files[file].write_all_at(bytes, ends[file]).unwrap();
            let (start, length) = (pair[0] as u64, bytes.len() as u64);
            extents.insert(0, Extent { start, length, file, offset: ends[file] });
            ends[file] += length + 3;
        }
        extents.retain(|e| e.length > 0);
        let to = tempfile::tempfile().unwrap();
        to.set_len(text.len() as u64).unwrap();
        let counts = replace(&extents, &files, &Out::Copy(&to), &swaps, |_| ()).unwrap();
        prop_assert!((bytes_of(&to), counts) == reference(&text, &swaps));
    }
}
