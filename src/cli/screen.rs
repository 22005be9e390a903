//! One picture of a VM's screen, through RFB 3.8 (RFC 6143): enough for `console --screenshot`.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::failure::Failure;

/// Longest side that is believed: 16 K.
const MOST: u16 = 16_384;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The screen at a socket path or `host:port`, as a PNG.
pub(crate) async fn picture(screen: &str) -> Result<Vec<u8>, Failure> {
    let failed = |e: std::io::Error| {
        Failure::caused(format!("cannot look at the screen `{screen}`"), &e).hint("look at it with a viewer instead")
    };
    let work = async {
        let mut stream: Box<dyn Stream> = if screen.starts_with('/') {
            Box::new(tokio::net::UnixStream::connect(screen).await?)
        } else {
            Box::new(tokio::net::TcpStream::connect(screen).await?)
        };
        let (width, height, pixels) = frame(&mut *stream).await?;
        Ok(png(width, height, &pixels))
    };
    match tokio::time::timeout(Duration::from_secs(20), work).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(failed(std::io::ErrorKind::TimedOut.into())),
    }
}

fn wrong(what: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned())
}

/// Reads and forgets.
async fn skip(stream: &mut dyn Stream, bytes: u32) -> std::io::Result<()> {
    tokio::io::copy(&mut stream.take(u64::from(bytes)), &mut tokio::io::sink()).await.map(drop)
}

/// Shakes hands without authentication, asks for the whole screen in raw encoding; gives RGB.
async fn frame(stream: &mut dyn Stream) -> std::io::Result<(u16, u16, Vec<u8>)> {
    skip(stream, 12).await?;
    stream.write_all(b"RFB 003.008\n").await?;
    let mut offered = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut offered).await?;
    // RFC 6143 section 7.1.2: 1 is "None".
    if !offered.contains(&1) {
        return Err(wrong("the screen asks for a password"));
    }
    stream.write_all(&[1]).await?;
    if stream.read_u32().await? != 0 {
        return Err(wrong("the screen let nobody in"));
    }
    // ClientInit: shared, so that nobody who looks is thrown out.
    stream.write_all(&[1]).await?;
    let (width, height) = (stream.read_u16().await?, stream.read_u16().await?);
    skip(stream, 16).await?;
    let name = stream.read_u32().await?;
    skip(stream, name).await?;
    if width == 0 || height == 0 || width > MOST || height > MOST {
        return Err(wrong("the screen has no size"));
    }
    // SetPixelFormat: 32 bits, depth 24, little endian, true colour, red at 16, green at 8, blue at 0.
    stream.write_all(&[0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]).await?;
    // SetEncodings: raw. FramebufferUpdateRequest: all of it.
    stream.write_all(&[2, 0, 0, 1, 0, 0, 0, 0]).await?;
    let ([w1, w2], [h1, h2]) = (width.to_be_bytes(), height.to_be_bytes());
    stream.write_all(&[3, 0, 0, 0, 0, 0, w1, w2, h1, h2]).await?;
    let mut pixels = vec![0; usize::from(width) * usize::from(height) * 3];
    let mut seen = 0;
    while seen < pixels.len() / 3 {
        seen += message(stream, (width, height), &mut pixels).await?;
    }
    Ok((width, height, pixels))
}

/// One message of the server; gives how many pixels it brought.
async fn message(stream: &mut dyn Stream, (width, height): (u16, u16), pixels: &mut [u8]) -> std::io::Result<usize> {
    match stream.read_u8().await? {
        0 => skip(stream, 1).await?,
        // Bell.
        2 => return Ok(0),
        // ServerCutText.
        3 => {
            skip(stream, 3).await?;
            let length = stream.read_u32().await?;
            return skip(stream, length).await.map(|()| 0);
        }
        _ => return Err(wrong("the screen said something that was not asked for")),
    }
    let mut brought = 0;
    for _ in 0..stream.read_u16().await? {
        let (x, y) = (stream.read_u16().await?, stream.read_u16().await?);
        let (w, h) = (stream.read_u16().await?, stream.read_u16().await?);
        let raw = stream.read_i32().await? == 0;
        let fits = u32::from(x) + u32::from(w) <= u32::from(width) && u32::from(y) + u32::from(h) <= u32::from(height);
        if !raw || !fits {
            return Err(wrong("the screen sent something that was not asked for"));
        }
        let mut row = vec![0; usize::from(w) * 4];
        for line in 0..usize::from(h) {
            stream.read_exact(&mut row).await?;
            let start = ((usize::from(y) + line) * usize::from(width) + usize::from(x)) * 3;
            for (to, from) in pixels[start..].chunks_exact_mut(3).zip(row.chunks_exact(4)) {
                to.copy_from_slice(&[from[2], from[1], from[0]]);
            }
        }
        brought += usize::from(w) * usize::from(h);
    }
    Ok(brought)
}

/// An RGB picture as PNG (RFC 2083) with stored, uncompressed blocks (RFC 1950; RFC 1951 section 3.2.4).
fn png(width: u16, height: u16, rgb: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(rgb.len() + usize::from(height));
    for line in rgb.chunks_exact(usize::from(width) * 3) {
        // Filter 0: none.
        lines.push(0);
        lines.extend_from_slice(line);
    }
    let mut data = vec![0x78, 0x01];
    let blocks = lines.chunks(65_535);
    let last = blocks.len().saturating_sub(1);
    for (i, block) in blocks.enumerate() {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        data.push(u8::from(i == last));
        data.extend_from_slice(&length.to_le_bytes());
        data.extend_from_slice(&(!length).to_le_bytes());
        data.extend_from_slice(block);
    }
    data.extend_from_slice(&adler32(&lines).to_be_bytes());
    let mut head = Vec::new();
    head.extend_from_slice(&u32::from(width).to_be_bytes());
    head.extend_from_slice(&u32::from(height).to_be_bytes());
    // 8 bits a sample, RGB, deflate, no interlace.
    head.extend_from_slice(&[8, 2, 0, 0, 0]);
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, body) in [(b"IHDR", head), (b"IDAT", data), (b"IEND", Vec::new())] {
        out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        let start = out.len();
        out.extend_from_slice(kind);
        out.extend_from_slice(&body);
        let crc = crc32(&out[start..]);
        out.extend_from_slice(&crc.to_be_bytes());
    }
    out
}

/// RFC 1950 section 8.2.
fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    (b << 16) | a
}

/// RFC 2083 section 3.4 (the polynomial of ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standards() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
        let picture = png(2, 1, &[255, 0, 0, 0, 255, 0]);
        assert_eq!(&picture[1..4], b"PNG");
        assert_eq!(&picture[picture.len() - 4..], &0xae42_6082u32.to_be_bytes(), "IEND's known checksum");
    }
}
