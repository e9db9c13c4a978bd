//! The pods of `spec.query`, asked as a program asks them: questions, and pictures of the pages that
//! answer them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use k8s_openapi::api::core::v1::Service;
use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cluster::{Scene, eventually};

const MINUTE: Duration = Duration::from_mins(1);
/// Pictures are scaled down to this width, in pixels.
const WIDTH: u32 = 440;
/// Of 100, as JPEG counts.
const QUALITY: u8 = 60;

/// The search of a pipeline's query pods.
pub struct QueryService {
    client: Client,
    address: Url,
    token: String,
}

/// A page that answers a question.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Answer {
    /// File name of the document.
    pub file: String,
    /// Page number, from 1.
    pub page: u64,
    /// `MaxSim` score of the page for the question.
    pub score: f64,
    /// The words that are closest to the question, if the page's text is kept.
    #[serde(default)]
    pub snippet: String,
    /// What of the page the question concerns.
    #[serde(default)]
    pub heat: Vec<HeatBox>,
    /// Address of the page's picture.
    pub image_url: String,
}

/// A part of a page, in fractions of its sides, with a weight up to 1.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct HeatBox {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
    pub weight: f64,
}

impl QueryService {
    /// The Service of a pipeline with `spec.query`, at the address that this machine reaches.
    pub async fn of_pipeline(scene: &Scene, pipeline: &str, token: &str) -> Result<Self> {
        let service = scene
            .api::<Service>()
            .get(&format!("{pipeline}-query"))
            .await?;
        let address = service.spec.and_then(|spec| spec.cluster_ip);
        let address = address.context("the Service has an address")?;
        Self::at(&format!("{address}:9090"), token)
    }

    /// A server that listens for searches at this address.
    pub fn at(address: &str, token: &str) -> Result<Self> {
        Ok(Self {
            client: Client::new(),
            address: Url::parse(&format!("http://{address}/"))?,
            token: token.to_owned(),
        })
    }

    /// The address of the page with a question, and the token for it.
    #[must_use]
    pub fn page(&self, question: &str) -> String {
        let mut page = self.address.clone();
        page.query_pairs_mut().append_pair("q", question);
        page.set_fragment(Some(&format!("token={}", self.token)));
        page.into()
    }

    /// The answer to a search, which has to succeed.
    pub async fn search(&self, search: &Value) -> Result<Value> {
        let request = self.client.post(self.address.join("/v1/search")?);
        let request = request.bearer_auth(&self.token).timeout(MINUTE);
        let response = request.json(search).send().await?;
        let status = response.status();
        let answer: Value = response.json().await?;
        ensure!(status.is_success(), "{status}: {answer}");
        Ok(answer)
    }

    /// The best pages of a knowledge base, with what the question concerns. Waits until the service
    /// answers: it has an effect a moment after its pods are ready.
    pub async fn ask(&self, question: &str, base: &str, top: usize) -> Result<Vec<Answer>> {
        let search = json!({
            "question": question, "knowledge_bases": [base], "top": top, "heat": true,
        });
        let mut answer = eventually("an answer of the query service", 2 * MINUTE, async || {
            Ok(Some(self.search(&search).await?))
        })
        .await?;
        Ok(serde_json::from_value(answer["pages"].take())?)
    }

    /// The page's picture, scaled down, as JPEG.
    pub async fn picture(&self, answer: &Answer) -> Result<Vec<u8>> {
        let request = self.client.get(&answer.image_url).timeout(MINUTE);
        let picture = request.send().await?.error_for_status()?.bytes().await?;
        tokio::task::spawn_blocking(move || scaled_down(&picture)).await?
    }
}

fn scaled_down(picture: &[u8]) -> Result<Vec<u8>> {
    let picture = image::load_from_memory(picture)?;
    let picture = picture.resize(WIDTH, 2 * WIDTH, FilterType::CatmullRom);
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(&picture.to_rgb8())?;
    Ok(jpeg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_the_page_has_the_question_and_the_token() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let service = QueryService::at("10.0.0.7:9090", "for-the-demo-0123").unwrap();
        let expected = "http://10.0.0.7:9090/?q=How+is+it+done%3F#token=for-the-demo-0123";
        assert_eq!(service.page("How is it done?"), expected);
    }

    #[test]
    fn pictures_become_small() {
        let page = image::RgbImage::from_pixel(1240, 1754, image::Rgb([250, 250, 250]));
        let mut png = std::io::Cursor::new(Vec::new());
        page.write_to(&mut png, image::ImageFormat::Png).unwrap();
        let small = scaled_down(png.get_ref()).unwrap();
        let size = image::load_from_memory(&small).unwrap();
        assert_eq!((size.width(), size.height()), (WIDTH, 622));
    }
}
