//! Messages of every kind through a pipe, whole and broken.

use proptest::prelude::*;

use super::super::office_format::OfficeFormat;
use super::super::{ImageFormat, PageWarning, Resolution};
use super::*;

fn body(reply: &Reply) -> Bytes {
    let message = Bytes::from(reply.encode().unwrap());
    let header = message[..HEADER_BYTES].try_into().unwrap();
    let body = message.slice(HEADER_BYTES..);
    assert_eq!(
        body_length(header, MAX_REPLY_BYTES).unwrap() as usize,
        body.len()
    );
    body
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..64)
}

fn any_request() -> impl Strategy<Value = Request> {
    let paths = (any_bytes(), any_bytes());
    let numbers = (any::<u32>(), any::<u64>(), any::<u32>());
    let open = (paths, numbers).prop_map(
        |((pdfium, document), (max_pages, memory_limit_bytes, milliseconds))| {
            Request::Open(OpenRequest {
                pdfium,
                document,
                max_pages,
                memory_limit_bytes,
                page_timeout: Duration::from_millis(milliseconds.into()),
                sandbox: SandboxPolicy::Required,
            })
        },
    );
    let format = prop_oneof![Just(ImageFormat::Png), Just(ImageFormat::WebP)];
    let resolution = prop_oneof![
        any::<u32>().prop_map(Resolution::Dpi),
        any::<u32>().prop_map(|pixels| Resolution::Auto { pixels })
    ];
    let render = (any::<u32>(), resolution, format, any::<u8>(), any::<bool>()).prop_map(
        |(page, resolution, format, quality, pixels)| {
            Request::Render(PageRequest {
                page,
                resolution,
                format,
                quality,
                pixels,
            })
        },
    );
    prop_oneof![open, render]
}

fn any_reply() -> impl Strategy<Value = Reply> {
    let size = (1..5_u32, 1..5_u32);
    let page = (any::<u32>(), size, any_bytes(), ".*", any::<bool>()).prop_map(
        |(page, (width, height), rest, text, has_pixels)| {
            let encoded = [png_header(width, height), rest].concat();
            let pixels = has_pixels.then(|| vec![7; 3 * (width * height) as usize].into());
            Reply::Page(RenderedPage {
                page,
                width,
                height,
                encoded: encoded.into(),
                pixels,
                text,
                facts: PageFacts::default(),
            })
        },
    );
    let failed = (0..11_u8, any::<u32>(), any::<u32>(), ".{0,40}").prop_map(
        |(kind, page, pages, detail)| {
            Reply::Failed(match kind {
                0 => RenderError::Encrypted,
                1 => RenderError::Damaged(detail),
                2 => RenderError::Empty(detail),
                3 => RenderError::TooManyPages { pages, limit: page },
                4 => RenderError::Unsupported(detail),
                5 => RenderError::DamagedPage { page, detail },
                6 => RenderError::NoSuchPage { page, pages },
                7 => RenderError::OutOfMemory,
                8 => RenderError::Unavailable(detail),
                9 => RenderError::TooLarge(detail),
                _ => RenderError::Io(detail),
            })
        },
    );
    prop_oneof![
        (any::<u32>(), any::<bool>()).prop_map(|(pages, form)| Reply::Opened(OpenedDocument {
            pages,
            warnings: form
                .then_some(DocumentWarning::XfaForm)
                .into_iter()
                .collect(),
        })),
        (".{0,40}", "[a-z0-9]{0,9}").prop_map(|(sandbox_gaps, format)| Reply::Confined {
            sandbox_gaps,
            format
        }),
        (0..OfficeFormat::ALL.len(), any::<bool>()).prop_map(|(format, encrypted)| {
            let format = OfficeFormat::ALL[format];
            Reply::Office(OfficeDocument { format, encrypted })
        }),
        page,
        failed
    ]
}

proptest! {
    #[test]
    fn requests_survive_the_pipe(request in any_request()) {
        let read = read_request(&mut request.encode().as_slice()).unwrap();
        prop_assert_eq!(read, Some(request));
    }

    #[test]
    fn replies_survive_the_pipe(reply in any_reply()) {
        prop_assert_eq!(Reply::decode(&body(&reply)), Ok(reply));
    }

    #[test]
    fn a_truncated_body_is_refused(reply in any_reply(), keep in 0.0..1.0_f64) {
        let body = body(&reply);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let kept = (body.len() as f64 * keep) as usize;
        prop_assert!(Reply::decode(&body.slice(..kept)).is_err());
    }

    #[test]
    fn a_body_with_trailing_bytes_is_refused(reply in any_reply()) {
        let body = [body(&reply).as_ref(), &[0]].concat();
        prop_assert!(Reply::decode(&body.into()).is_err());
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(body in any_bytes()) {
        let _ = Request::decode(&body);
        let _ = Reply::decode(&body.into());
    }
}

fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    file.extend(width.to_be_bytes());
    file.extend(height.to_be_bytes());
    file
}

fn page(width: u32, height: u32, pixels: usize) -> Reply {
    Reply::Page(RenderedPage {
        page: 0,
        width,
        height,
        encoded: png_header(width, height).into(),
        pixels: Some(vec![0; pixels].into()),
        text: String::new(),
        facts: PageFacts::default(),
    })
}

#[test]
fn pixels_that_do_not_fit_the_size_are_refused() {
    assert!(Reply::decode(&body(&page(2, 2, 12))).is_ok());
    for reply in [page(2, 2, 11), page(u32::MAX, u32::MAX, 3)] {
        assert!(Reply::decode(&body(&reply)).is_err());
    }
}

#[test]
fn pages_of_an_impossible_size_are_refused() {
    for (width, height) in [(0, 5), (5, 0), (16_384, 1), (8000, 8000)] {
        let pixels = 3 * (width * height) as usize;
        assert_eq!(
            Reply::decode(&body(&page(width, height, pixels))),
            Err(ProtocolError::Size { width, height })
        );
    }
}

#[test]
fn a_page_image_that_is_something_else_is_refused() {
    for encoded in [
        Bytes::new(),
        Bytes::from_static(b"<html><script>"),
        png_header(2, 3).into(),
    ] {
        let Reply::Page(page) = page(2, 2, 12) else {
            unreachable!("a page was built");
        };
        let reply = Reply::Page(RenderedPage { encoded, ..page });
        assert_eq!(Reply::decode(&body(&reply)), Err(ProtocolError::Encoding));
    }
}

#[test]
fn facts_of_a_page_that_cannot_be_are_refused() {
    let sent = |facts: PageFacts| {
        let Reply::Page(page) = page(2, 2, 12) else {
            unreachable!("a page was built");
        };
        Reply::decode(&body(&Reply::Page(RenderedPage { facts, ..page })))
    };
    for (points, orientation) in [
        (Some((f32::NAN, 1.0)), 1),
        (Some((1.0, -1.0)), 1),
        (None, 0),
        (None, 9),
    ] {
        let facts = PageFacts {
            points,
            orientation,
            ..PageFacts::default()
        };
        assert_eq!(sent(facts), Err(ProtocolError::Facts));
    }
    let script = |name: &str| PageWarning::MissingGlyphs(name.to_owned());
    let warnings = vec![
        script("Hangul"),
        script("anything\nof a hostile renderer"),
        PageWarning::NoText,
        script("Hangul"),
    ];
    let Ok(Reply::Page(page)) = sent(PageFacts {
        warnings,
        ..PageFacts::default()
    }) else {
        panic!("a page arrives as a page");
    };
    assert_eq!(page.facts.warnings, [PageWarning::NoText, script("Hangul")]);
}

#[test]
fn long_text_of_a_page_is_cut_off() {
    let Reply::Page(page) = page(2, 2, 12) else {
        unreachable!("a page was built");
    };
    let text = "é".repeat(MAX_TEXT_BYTES);
    let decoded = Reply::decode(&body(&Reply::Page(RenderedPage { text, ..page })));
    let Ok(Reply::Page(page)) = decoded else {
        panic!("a page arrives as a page");
    };
    assert_eq!(page.text.len(), MAX_TEXT_BYTES);
}

#[test]
fn failures_that_only_the_worker_can_determine_are_not_sent() {
    let limit = Duration::from_secs(1);
    for error in [
        RenderError::Killed { signal: 9 },
        RenderError::TimedOut { limit },
        RenderError::Stalled { limit, used: limit },
        RenderError::NoResources("processes".into()),
    ] {
        assert!(Reply::Failed(error).encode().is_err());
    }
}

#[test]
fn long_details_are_shortened_on_arrival() {
    let long = Reply::Failed(RenderError::Damaged("é".repeat(4000)));
    let Ok(Reply::Failed(RenderError::Damaged(detail))) = Reply::decode(&body(&long)) else {
        panic!("a failure arrives as a failure");
    };
    assert_eq!(detail, "é".repeat(MAX_DETAIL_BYTES / 2));
}

#[test]
fn a_closed_pipe_ends_the_requests() {
    assert!(read_request(&mut [].as_slice()).unwrap().is_none());
}
