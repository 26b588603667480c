//! The JSON Schema of launchway.yaml, from the types that read it.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::{Value, json};

use super::file::Launchway;

/// JSON Schema (2020-12) of `launchway.yaml`, for editors.
pub fn schema() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.transforms.push(Box::new(NoNull));
    let mut schema = settings.into_generator().into_root_schema_for::<Launchway>();
    schema.insert("title".into(), json!("launchway.yaml"));
    schema.to_value()
}

/// A part that may be left out is not one that may be null: an empty value in the file is a slip.
#[derive(Clone)]
struct NoNull;

impl Transform for NoNull {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                object.insert("type".into(), only);
            }
        }
        if let Some(Value::Array(any)) = object.get_mut("anyOf") {
            any.retain(|kind| *kind != json!({ "type": "null" }));
            if let [Value::Object(only)] = any.as_slice() {
                let only = only.clone();
                object.remove("anyOf");
                object.extend(only);
            }
        }
    }
}
