//! What an Xvfb shows, from the file it keeps its picture in (the format of xwd), and pictures of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The screen of one X server.
pub struct Screen {
    file: PathBuf,
}

/// A picture.
#[derive(Clone, PartialEq)]
pub struct Picture {
    pub width: usize,
    pixels: Vec<[u8; 3]>,
}

/// Part of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Area {
    pub left: usize,
    pub top: usize,
    pub right: usize,
    pub bottom: usize,
}

impl Screen {
    pub fn new(file: PathBuf) -> Self {
        Self { file }
    }

    pub fn picture(&self) -> Picture {
        let bytes = std::fs::read(&self.file).unwrap();
        let word = |at: usize| {
            let bytes = bytes[at * 4..at * 4 + 4].try_into().unwrap();
            usize::try_from(u32::from_be_bytes(bytes)).unwrap()
        };
        let (header, width, height, bits, stride, colours) = (word(0), word(4), word(5), word(11), word(12), word(19));
        assert_eq!(bits, 32, "bits per pixel");
        let data = &bytes[header + colours * 12..];
        let row = |row: usize| data[row * stride..row * stride + width * 4].chunks_exact(4);
        let pixels = (0..height).flat_map(row).map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect();
        Picture { width, pixels }
    }

    /// Waits until the picture stands still and `found` finds something in it.
    pub async fn settled<T>(&self, mut found: impl FnMut(&Picture) -> Option<T>) -> (Picture, T) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut last = self.picture();
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let next = self.picture();
            if next == last
                && let Some(what) = found(&next)
            {
                return (next, what);
            }
            last = next;
            if Instant::now() >= deadline {
                let file = std::env::temp_dir().join(format!("enftun-screen-{}.png", std::process::id()));
                last.save(&file);
                panic!("waited 60 s in vain for something on the screen, which is now in {}", file.display());
            }
        }
    }
}

impl Area {
    /// The smallest area that has both in it.
    pub fn and(self, other: Self) -> Self {
        Self {
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
        }
    }
}

impl Picture {
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        self.pixels[y * self.width + x]
    }

    pub fn height(&self) -> usize {
        self.pixels.len() / self.width
    }

    /// The smallest area outside of which both are the same; none when they are.
    pub fn difference(&self, other: &Self) -> Option<Area> {
        let different = self.pixels.iter().zip(&other.pixels).enumerate().filter(|(_, (a, b))| a != b);
        different.map(|(at, _)| (at % self.width, at / self.width)).fold(None, |area, (x, y)| {
            let area = area.unwrap_or(Area { left: x, top: y, right: x, bottom: y });
            Some(area.and(Area { left: x, top: y, right: x + 1, bottom: y + 1 }))
        })
    }

    /// Part of it.
    pub fn cut(&self, area: Area) -> Self {
        let row = |y: usize| &self.pixels[y * self.width + area.left..y * self.width + area.right];
        Self { width: area.right - area.left, pixels: (area.top..area.bottom).flat_map(row).copied().collect() }
    }

    /// Pictures of one height beside each other, every pixel twice as wide and high.
    pub fn doubled(pictures: &[Self]) -> Self {
        let height = pictures[0].height();
        let width = pictures.iter().map(|picture| picture.width * 2).sum();
        let row = |y: usize| {
            let line = move |picture: &Self| picture.pixels[y / 2 * picture.width..][..picture.width].to_vec();
            pictures.iter().flat_map(line).flat_map(|pixel| [pixel; 2])
        };
        Self { width, pixels: (0..height * 2).flat_map(row).collect() }
    }

    /// How many pixels have a colour.
    pub fn count(&self, colour: [u8; 3]) -> usize {
        self.pixels.iter().filter(|pixel| **pixel == colour).count()
    }

    /// Where it differs from another.
    pub fn mask(&self, other: &Self) -> Vec<bool> {
        self.pixels.iter().zip(&other.pixels).map(|(a, b)| a != b).collect()
    }

    /// Writes it as a PNG. Python knows how to compress.
    pub fn save(&self, file: &Path) {
        use std::io::Write;
        const PYTHON: &str = "
import struct, sys, zlib
file, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rgb = sys.stdin.buffer.read()
rows = b''.join(b'\\0' + rgb[at:at + width * 3] for at in range(0, len(rgb), width * 3))
def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
with open(file, 'wb') as png:
    png.write(b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)))
    png.write(chunk(b'IDAT', zlib.compress(rows, 9)) + chunk(b'IEND', b''))
";
        let size = [self.width, self.height()].map(|size| size.to_string());
        let mut python = Command::new("python3");
        let python = python.args(["-c", PYTHON]).arg(file).args(size).stdin(Stdio::piped()).spawn();
        let mut python = python.expect("python3 writes the picture");
        let mut pipe = python.stdin.take().unwrap();
        pipe.write_all(self.pixels.as_flattened()).unwrap();
        drop(pipe);
        assert!(python.wait().unwrap().success());
    }
}
