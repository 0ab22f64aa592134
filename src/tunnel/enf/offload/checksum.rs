//! The Internet checksum (RFC 1071), fast: it is most of what splitting and coalescing cost.

/// The one's-complement sum of `bytes` as big-endian words, the last one padded; at most 0xffff, and 0 only for nothing but zeros.
pub fn sum(bytes: &[u8]) -> u32 {
    // Sums of words come out right in either order of bytes, and of double words too (section 2): add what the machine adds
    // best, and turn the result round once. Independent lanes let the compiler use its vector registers.
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0_u64; 8];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_le_bytes(*word));
        }
    }
    let (words, rest) = rest.as_chunks::<4>();
    let mut total: u64 = lanes.iter().sum();
    for word in words {
        total += u64::from(u32::from_le_bytes(*word));
    }
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    total += u64::from(u32::from_le_bytes(last));
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff) + ((total >> 16) & 0xffff) + (total >> 32);
    u32::from(fold(total as u32).swap_bytes())
}

/// Carries brought home: the same sum in 16 bits. Not 0 unless `sum` is.
pub fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!((sum(&[]), sum(&[0; 99]), sum(&[0xff; 65_535])), (0, 0, samples::sum(&[0xff; 65_535])));
        assert_eq!((fold(0), fold(0xffff), fold(0x1_0000), fold(u32::MAX)), (0, 0xffff, 1, 0xffff));
    }

    proptest! {
        #[test]
        fn it_is_the_sum_word_by_word(bytes in prop::collection::vec(any::<u8>(), 0..3000), at in 0_usize..8) {
            let bytes = bytes.get(at..).unwrap_or_default();
            prop_assert_eq!(sum(bytes), samples::sum(bytes));
        }
    }
}
