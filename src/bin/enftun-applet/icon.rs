//! The icons, drawn: a shield whose inside says the state, so that the shapes differ without their colours, and in the
//! middle of the scale of brightness, so that they show on light and dark panels.

use super::view::Look;

/// Width, height, and ARGB32 in network byte order: what the bus calls a pixmap.
pub type Pixmap = (i32, i32, Vec<u8>);

type Colour = [u8; 3];
type Point = (f32, f32);

const GREEN: Colour = [0x2e, 0xa0, 0x4e];
const BLUE: Colour = [0x35, 0x84, 0xe4];
const AMBER: Colour = [0xe0, 0x94, 0x0a];
const RED: Colour = [0xe0, 0x2c, 0x2c];
const GREY: Colour = [0x8c, 0x8c, 0x8c];

/// Each pixel is looked at in so many rows and columns of places.
const FINE: u16 = 4;

/// The icon in the sizes that panels commonly have.
pub fn pixmaps(look: Look, warned: bool) -> Vec<Pixmap> {
    [16, 22, 24, 32, 48, 64].into_iter().map(|size| draw(look, warned, size)).collect()
}

fn draw(look: Look, warned: bool, size: u16) -> Pixmap {
    let mut bytes = Vec::with_capacity(usize::from(size) * usize::from(size) * 4);
    for row in 0..size {
        for column in 0..size {
            bytes.extend(pixel(look, warned, size, row, column));
        }
    }
    (i32::from(size), i32::from(size), bytes)
}

fn pixel(look: Look, warned: bool, size: u16, row: u16, column: u16) -> [u8; 4] {
    let place = |at: u16, fine: u16| (f32::from(at * FINE + fine) + 0.5) / f32::from(size * FINE);
    let (mut sum, mut seen) = ([0_u32; 3], 0_u32);
    for fine_row in 0..FINE {
        for fine_column in 0..FINE {
            if let Some(colour) = at(look, warned, (place(column, fine_column), place(row, fine_row))) {
                seen += 1;
                for (sum, part) in sum.iter_mut().zip(colour) {
                    *sum += u32::from(part);
                }
            }
        }
    }
    let mean = sum.map(|sum| u8::try_from(sum / seen.max(1)).unwrap_or(u8::MAX));
    let alpha = u8::try_from(seen * 255 / u32::from(FINE * FINE)).unwrap_or(u8::MAX);
    let [red, green, blue] = mean;
    [alpha, red, green, blue]
}

/// The colour at a place of the unit square, if it is painted.
fn at(look: Look, warned: bool, place: Point) -> Option<Colour> {
    if warned && near(place, (0.78, 0.74), (0.78, 0.74), 0.27) {
        // A badge with an exclamation mark, on the corner of the shield, with a gap around it.
        let mark = near(place, (0.78, 0.62), (0.78, 0.76), 0.045) || near(place, (0.78, 0.87), (0.78, 0.87), 0.05);
        return (near(place, (0.78, 0.74), (0.78, 0.74), 0.22) && !mark).then_some(AMBER);
    }
    let (inside, within) = (shield(place, 1.0), shield(place, 0.76));
    let edge = inside && !within;
    let (colour, painted) = match look {
        // Dashes.
        Look::Absent => (GREY, edge && ((place.1 - 0.5).atan2(place.0 - 0.5) * 7.0).sin() > 0.0),
        Look::Disconnected => (GREY, edge),
        Look::Blocked => (GREY, edge || within && near(place, (0.32, 0.45), (0.68, 0.45), 0.085)),
        Look::Connecting => {
            let dots = [0.3, 0.5, 0.7].into_iter().any(|x| near(place, (x, 0.42), (x, 0.42), 0.075));
            (BLUE, edge || dots)
        }
        Look::Connected => {
            let tick = near(place, (0.31, 0.46), (0.45, 0.61), 0.065) || near(place, (0.45, 0.61), (0.7, 0.3), 0.065);
            (GREEN, inside && !tick)
        }
        Look::Degraded => (AMBER, edge || inside && place.0 < 0.5),
        Look::Error => {
            let cross = near(place, (0.34, 0.29), (0.66, 0.61), 0.07) || near(place, (0.66, 0.29), (0.34, 0.61), 0.07);
            (RED, inside && !cross)
        }
    };
    painted.then_some(colour)
}

/// Whether a place is in the shield, or in a smaller one with the same middle.
fn shield((x, y): Point, scale: f32) -> bool {
    let (x, y) = ((x - 0.5).abs() / scale, (y - 0.47) / scale);
    let below = (y.max(0.0) / 0.5).min(1.0);
    (-0.43..=0.5).contains(&y) && x <= 0.42 * (1.0 - below.powf(2.2))
}

/// Whether a place is no farther than `radius` from the line between two others.
fn near((x, y): Point, from: Point, to: Point, radius: f32) -> bool {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length = dx * dx + dy * dy;
    let along = if length > 0.0 { (((x - from.0) * dx + (y - from.1) * dy) / length).clamp(0.0, 1.0) } else { 0.0 };
    (x - from.0 - along * dx).hypot(y - from.1 - along * dy) <= radius
}
