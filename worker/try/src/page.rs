//! The files of the page. `layra-worker serve` has the same page, with another `api.js`.

/// `/`.
pub const INDEX: &str = include_str!("page/index.html");
/// `/page.css`.
pub const STYLE: &str = include_str!("page/page.css");
/// `/page.js`. It asks the `service` that `api.js` defines.
pub const SCRIPT: &str = include_str!("page/page.js");
/// `/icon.svg`.
pub const ICON: &str = include_str!("page/icon.svg");
