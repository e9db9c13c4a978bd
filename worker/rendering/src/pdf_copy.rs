//! A copy of a PDF in PDFium that is changed until the text of a page is what is seen of it: text
//! boxes and stamps become part of the page, and what is on hidden layers is taken out. The drawn
//! document stays as it is. Runs in the renderer.
//!
//! PDFium offers this by raw calls only.

use std::collections::BTreeSet;
use std::ffi::c_void;

use pdfium_render::prelude::*;

/// PDFium's numbers of the annotations that show words of their own: text boxes and stamps.
const WITH_WORDS: [i32; 2] = [3, 13];
/// Flags of annotations that are not seen on a screen: hidden, and only printed.
const UNSEEN: i32 = 2 | 32;
/// PDFium's number for flattening a page as it is displayed.
const AS_DISPLAYED: i32 = 0;
/// Longest name of a layer that is compared, in bytes.
const MAX_NAME_BYTES: usize = 1024;

pub(super) struct PdfCopy<'a> {
    calls: &'a dyn PdfiumLibraryBindings,
    document: *mut c_void,
    /// What PDFium reads.
    _content: Vec<u8>,
}

impl<'a> PdfCopy<'a> {
    pub(super) fn open(pdfium: &'a Pdfium, content: Vec<u8>) -> Option<Self> {
        let calls = pdfium.bindings();
        #[allow(
            unsafe_code,
            reason = "there is no safe call that leaves the document open"
        )]
        // SAFETY: the content is owned by the copy and outlives the document.
        let document = unsafe { calls.FPDF_LoadMemDocument64(&content, None) };
        (!document.is_null()).then(|| Self {
            calls,
            document: document.cast(),
            _content: content,
        })
    }

    /// The text of a page as code points or UTF-16 units, without form fields.
    #[allow(unsafe_code, reason = "every step is a raw call")]
    pub(super) fn text(&self, page: i32, hidden_layers: &BTreeSet<Vec<u8>>) -> Option<Vec<u32>> {
        let calls = self.calls;
        // SAFETY: all handles come from PDFium, are checked, used on this thread only while what
        // they belong to is open, and closed once.
        unsafe {
            let loaded = calls.FPDF_LoadPage(self.document.cast(), page);
            if loaded.is_null() {
                return None;
            }
            for index in (0..calls.FPDFPage_GetAnnotCount(loaded)).rev() {
                let annotation = calls.FPDFPage_GetAnnot(loaded, index);
                if annotation.is_null() {
                    continue;
                }
                let kind = calls.FPDFAnnot_GetSubtype(annotation);
                let flags = calls.FPDFAnnot_GetFlags(annotation);
                calls.FPDFPage_CloseAnnot(annotation);
                if !WITH_WORDS.contains(&kind) || flags & UNSEEN != 0 {
                    calls.FPDFPage_RemoveAnnot(loaded, index);
                }
            }
            calls.FPDFPage_Flatten(loaded, AS_DISPLAYED);
            calls.FPDF_ClosePage(loaded);

            let loaded = calls.FPDF_LoadPage(self.document.cast(), page);
            if loaded.is_null() {
                return None;
            }
            let objects = if hidden_layers.is_empty() {
                0
            } else {
                calls.FPDFPage_CountObjects(loaded)
            };
            for index in (0..objects).rev() {
                let object = calls.FPDFPage_GetObject(loaded, index);
                let marks = calls.FPDFPageObj_CountMarks(object);
                let is_hidden = (0..u64::try_from(marks).unwrap_or(0)).any(|index| {
                    let mark = calls.FPDFPageObj_GetMark(object, index);
                    let (mut name, mut length) = ([0_u8; MAX_NAME_BYTES], 0);
                    let known = calls.FPDFPageObjMark_GetParamBlobValue(
                        mark,
                        "Name",
                        name.as_mut_ptr(),
                        MAX_NAME_BYTES as u64,
                        &raw mut length,
                    );
                    let name = name.get(..usize::try_from(length).unwrap_or(usize::MAX));
                    known != 0 && name.is_some_and(|name| hidden_layers.contains(name))
                });
                if is_hidden && calls.FPDFPage_RemoveObject(loaded, object) != 0 {
                    calls.FPDFPageObj_Destroy(object);
                }
            }
            let text = calls.FPDFText_LoadPage(loaded);
            let units = if text.is_null() {
                None
            } else {
                let count = calls.FPDFText_CountChars(text);
                let units = (0..count).map(|index| calls.FPDFText_GetUnicode(text, index));
                let units = units.collect();
                calls.FPDFText_ClosePage(text);
                Some(units)
            };
            calls.FPDF_ClosePage(loaded);
            units
        }
    }
}

impl Drop for PdfCopy<'_> {
    fn drop(&mut self) {
        #[allow(unsafe_code, reason = "it was opened by a raw call")]
        // SAFETY: the document is open, and nothing of it is.
        unsafe {
            self.calls.FPDF_CloseDocument(self.document.cast());
        }
    }
}
