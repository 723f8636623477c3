//! A first detector: reports readings that are too hot.
use phronis_sdk::prelude::*;

#[derive(Event)]
struct Reading<'a> {
    sensor_id: &'a str,
    value: f64,
}

#[derive(Params)]
struct Limits {
    #[param(default = 90.0, doc = "°C")]
    high: f64,
}

#[detector(name = "first-detector")]
fn judge(reading: Reading, limits: &Limits, alerts: &mut Alerts) {
    if reading.value > limits.high {
        alerts.warning("too-hot", format!("{} at {} °C", reading.sensor_id, reading.value));
    }
}

#[cfg(test)]
mod tests {
    use phronis_sdk::test::{Harness, json};

    #[test]
    fn a_hot_reading_is_reported() {
        let mut detector = Harness::<super::judge>::new(json!({"high": 80})).unwrap();
        let rows = [json!({"sensor_id": "S01", "value": 79.5}), json!({"sensor_id": "S02", "value": 98.6})];
        let answer = detector.run(&rows).unwrap();
        assert_eq!(answer["findings"].as_array().unwrap().len(), 1);
        assert_eq!(answer["findings"][0]["message"], "S02 at 98.6 °C");
    }
}
