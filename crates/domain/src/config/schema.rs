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

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use serde_json::{Map, Value};

    use super::super::mistake::{Mistakes, Source};
    use super::super::yaml::{self, Kind, Node};

    fn fixtures(kind: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind);
        let entries = std::fs::read_dir(folder).expect("the fixtures are there");
        entries.map(|entry| entry.expect("readable").path()).collect()
    }

    fn json(node: &Node) -> Value {
        match &node.value {
            yaml::Value::Null => Value::Null,
            yaml::Value::Scalar { text, kind: Kind::Text } => text.as_str().into(),
            yaml::Value::Scalar { text, .. } => {
                serde_json::from_str(text).expect("JSON has it too")
            }
            yaml::Value::List(items) => items.iter().map(json).collect(),
            yaml::Value::Map(entries) => {
                let entry = |(key, node): &(yaml::Key, Node)| (key.text.clone(), json(node));
                Value::Object(entries.iter().map(entry).collect::<Map<_, _>>())
            }
        }
    }

    fn document(folder: &Path) -> Value {
        let text = std::fs::read_to_string(folder.join("launchway.yaml")).expect("readable");
        let source = Source { path: "launchway.yaml", text: &text };
        json(&yaml::parse(source, &mut Mistakes::new(source)).expect("YAML"))
    }

    #[test]
    fn the_schema_accepts_what_the_reader_accepts() {
        let schema = jsonschema::validator_for(&super::schema()).expect("a schema");
        for folder in fixtures("accepted") {
            let errors: Vec<String> =
                schema.iter_errors(&document(&folder)).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{}: {errors:?}", folder.display());
        }
    }

    #[test]
    fn the_schema_refuses_what_is_broken_in_structure() {
        let schema = jsonschema::validator_for(&super::schema()).expect("a schema");
        let broken = fixtures("broken").into_iter().filter(|folder| {
            folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("structure-"))
        });
        let mut refused = 0;
        for folder in broken {
            assert!(!schema.is_valid(&document(&folder)), "{} was accepted", folder.display());
            refused += 1;
        }
        assert!(refused >= 20, "only {refused} files are broken in structure");
    }
}
