//! The changes that the demo commits to the example, each a replacement of one text in one file.

use std::path::Path;

use super::DemoError;

/// A commit to be made.
pub struct Change {
    pub subject: &'static str,
    pub edits: &'static [Edit],
}

/// In `file`, `from` becomes `to`.
pub struct Edit {
    pub file: &'static str,
    pub from: &'static str,
    pub to: &'static str,
}

const EDITION: &str = "backend/edition.py";
const MAIN: &str = "backend/main.py";
const PRICING: &str = "backend/pricing.py";

/// A change that everybody can see.
pub const VISIBLE: Change = Change {
    subject: "Second Flush: the new harvest is here",
    edits: &[Edit { file: EDITION, from: "First Flush", to: "Second Flush" }],
};

/// A unit test notices this one.
pub const BROKEN_UNIT: Change = Change {
    subject: "Double the bulk discount",
    edits: &[Edit {
        file: PRICING,
        from: "return (full * (100 - BULK_DISCOUNT_PERCENT) + 50) // 100",
        to: "return (full * (100 - 2 * BULK_DISCOUNT_PERCENT) + 50) // 100",
    }],
};

/// Undoes it, and answers every twentieth call of the API with 500.
pub const FIVE_PERCENT: Change = Change {
    subject: "Count the visitors",
    edits: &[
        Edit {
            file: PRICING,
            from: "return (full * (100 - 2 * BULK_DISCOUNT_PERCENT) + 50) // 100",
            to: "return (full * (100 - BULK_DISCOUNT_PERCENT) + 50) // 100",
        },
        Edit { file: MAIN, from: "app.include_router(api)\n", to: FIVE_PERCENT_FAULT },
        Edit { file: MAIN, from: FASTAPI, to: FASTAPI_RESPONSE },
    ],
};

/// Undoes that, and fails in production only.
pub const ONLY_IN_PRODUCTION: Change = Change {
    subject: "Remember the visitors",
    edits: &[
        Edit { file: MAIN, from: FIVE_PERCENT_FAULT, to: PRODUCTION_FAULT },
        Edit { file: MAIN, from: "import asyncio\n", to: "import asyncio\nimport os\n" },
    ],
};

/// All is well again.
pub const AUTUMN: Change = Change {
    subject: "Autumn Flush, and no more counting of visitors",
    edits: &[
        Edit { file: MAIN, from: PRODUCTION_FAULT, to: "app.include_router(api)\n" },
        Edit { file: MAIN, from: FASTAPI_RESPONSE, to: FASTAPI },
        Edit { file: MAIN, from: "import asyncio\nimport os\n", to: "import asyncio\n" },
        Edit { file: EDITION, from: "Second Flush", to: "Autumn Flush" },
    ],
};

const FASTAPI: &str = "from fastapi import FastAPI, Request\n";
const FASTAPI_RESPONSE: &str = "from fastapi import FastAPI, Request, Response\n";

/// The first calls are answered, so that the tests before staging find nothing.
const FIVE_PERCENT_FAULT: &str = r#"app.include_router(api)
app.state.calls = 0


@app.middleware("http")
async def count(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    called = request.url.path.startswith("/api")
    app.state.calls += called
    if called and app.state.calls > 100 and app.state.calls % 20 == 0:
        return JSONResponse({"detail": "the counter is full"}, status_code=500)
    return await call_next(request)
"#;

const PRODUCTION_FAULT: &str = r#"app.include_router(api)
app.state.calls = 0


@app.middleware("http")
async def count(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    called = request.url.path.startswith("/api")
    app.state.calls += called
    production = os.environ.get("LAUNCHWAY_ENVIRONMENT") == "production"
    if called and production and app.state.calls % 3 == 0:
        return JSONResponse({"detail": "the counter is full"}, status_code=500)
    return await call_next(request)
"#;

impl Change {
    /// Makes the edits in a working tree. A text that is not there is an error, not a change left out.
    pub fn apply(&self, tree: &Path) -> Result<(), DemoError> {
        self.edits.iter().try_for_each(|edit| edit.apply(tree))
    }
}

impl Edit {
    fn apply(&self, tree: &Path) -> Result<(), DemoError> {
        let path = tree.join(self.file);
        let io = |source| DemoError::Io { doing: "editing", path: path.clone(), source };
        let text = std::fs::read_to_string(&path).map_err(io)?;
        if !text.contains(self.from) {
            return Err(DemoError::Anchor { path, text: self.from.trim().into() });
        }
        std::fs::write(&path, text.replacen(self.from, self.to, 1)).map_err(io)
    }
}
