//! What a guard is told at its start, made sure of once.

use std::fmt;
use std::time::Duration;

/// What holds while the host is not heard. A halt that is known holds under each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenUnreachable {
    /// The last state holds, at any age or up to [`Options::stale_after`]; before the first state nothing runs.
    #[default]
    LastKnown,
    /// Everything runs that is not known to be halted.
    FailOpen,
    /// Nothing runs once the host was silent for [`Options::stale_after`], or for three seconds.
    FailClosed,
}

/// How a guard reaches its host and what it does without it.
#[derive(Clone)]
pub struct Options {
    /// Where the host is: `http://127.0.0.1:8000`.
    pub url: String,
    /// A key of the host; posting events needs the role write once the host has keys.
    pub api_key: Option<String>,
    /// Whose agents they are; none: the default tenant.
    pub tenant: Option<String>,
    /// What holds while the host is not heard.
    pub when_unreachable: WhenUnreachable,
    /// How old the last state may be.
    pub stale_after: Option<Duration>,
    /// Whether calls are told to the host.
    pub post_events: bool,
    /// The stream that they are posted to.
    pub stream: String,
    /// Events that may wait; beyond, the oldest go.
    pub queue_size: usize,
    /// How long the very first check waits for the host's first word.
    pub patience: Duration,
}

impl Options {
    /// The defaults, with the host's address.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            api_key: None,
            tenant: None,
            when_unreachable: WhenUnreachable::default(),
            stale_after: None,
            post_events: true,
            stream: "agents".to_owned(),
            queue_size: 10_000,
            patience: Duration::from_secs(2),
        }
    }
}

impl fmt::Debug for Options {
    /// Everything but the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("url", &self.url)
            .field("tenant", &self.tenant)
            .field("when_unreachable", &self.when_unreachable)
            .field("stale_after", &self.stale_after)
            .field("post_events", &self.post_events)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

/// An option that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The URL is not the address of a host.
    Url(String),
    /// An option is empty, or holds what it cannot.
    Option(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(f, "{url:?} is not the URL of a host, expected one like http://127.0.0.1:8000"),
            Self::Option(name) => write!(f, "the option `{name}` is empty or holds what it cannot"),
        }
    }
}

impl std::error::Error for Error {}

/// Where to listen and where to post, with what key.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) origin: String,
    pub(super) listen: String,
    pub(super) post: String,
    pub(super) api_key: Option<String>,
    is_loopback: bool,
}

impl Place {
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        let wrong = || Error::Url(options.url.clone());
        let base = options.url.trim_end_matches('/');
        let uri: ureq::http::Uri = base.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        if !is_http || authority.as_str().contains('@') || uri.query().is_some() || authority.host().is_empty() {
            return Err(wrong());
        }
        let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let is_name = |text: &str| is_word(text) && !text.contains(['/', '?', '#', '&', '%', '=', '+']);
        for (name, is_fine) in [
            ("api_key", options.api_key.as_deref().is_none_or(is_word)),
            ("tenant", options.tenant.as_deref().is_none_or(is_name)),
            ("stream", is_name(&options.stream)),
            ("queue_size", options.queue_size > 0),
            ("stale_after", options.stale_after.is_none_or(|age| !age.is_zero())),
        ] {
            if !is_fine {
                return Err(Error::Option(name));
            }
        }
        let (query, prefix) = match &options.tenant {
            Some(tenant) => (format!("?tenant={tenant}"), format!("{tenant}.")),
            None => Default::default(),
        };
        let host = authority.host();
        Ok(Self {
            origin: base.to_owned(),
            listen: format!("{base}/v1/agents/stream{query}"),
            post: format!("{base}/v1/streams/{prefix}{}/events", options.stream),
            api_key: options.api_key.clone(),
            is_loopback: host == "localhost" || host == "[::1]" || host.starts_with("127."),
        })
    }

    /// A client that follows no redirects, so that the key goes nowhere else, and no proxy to this machine.
    pub(super) fn client(&self, connect: Duration, silence: Duration, whole: Option<Duration>) -> ureq::Agent {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(connect))
            .timeout_resolve(Some(connect))
            .timeout_per_read(Some(silence))
            .timeout_per_write(Some(silence))
            .timeout_global(whole)
            .user_agent(concat!("phronis-sdk/", env!("CARGO_PKG_VERSION")));
        if self.is_loopback {
            config = config.proxy(None);
        }
        config.build().into()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// A share of a pause, so that many guards do not come back at the same moment.
pub(super) fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // Each state of the standard library's hash maps is keyed at random.
    let drawn = RandomState::new().build_hasher().finish();
    pause.mul_f64(drawn as f64 / u64::MAX as f64)
}
