//! A small document of each kind that every image of the worker reads.

macro_rules! field_file {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!("../../worker/tests/fieldfiles/files/", $name)).as_slice(),
        )
    };
}

/// File name and content, with the pages that the file becomes.
pub static KINDS: [((&str, &[u8]), u64); 19] = [
    (field_file!("mediabox-inherited.pdf"), 1),
    (field_file!("grey-16-bit.png"), 1),
    (field_file!("exif-6.jpg"), 1),
    (field_file!("three-pages.tif"), 3),
    (field_file!("quarters.webp"), 1),
    (field_file!("quarters.bmp"), 1),
    (field_file!("quarters.ico"), 1),
    (field_file!("animated.gif"), 1),
    (field_file!("notizen-utf16.txt"), 1),
    (field_file!("notes-latin1.txt"), 1),
    (field_file!("page.html"), 1),
    (field_file!("figures.csv"), 1),
    (field_file!("order.xml"), 1),
    (field_file!("readme.md"), 1),
    (field_file!("sort.py"), 1),
    (field_file!("mail.eml"), 1),
    (field_file!("book.epub"), 1),
    (
        (
            "picture.jp2",
            include_bytes!("../../worker/rendering/tests/fixtures/pictures/colours.jp2"),
        ),
        1,
    ),
    (("drawing.svg", DRAWING.as_bytes()), 1),
];
const DRAWING: &str = "<svg xmlns='http://www.w3.org/2000/svg' width='300' height='100'>
    <text x='10' y='50' font-size='16'>Ventilation duct of the cellar</text></svg>";
