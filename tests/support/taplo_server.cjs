// Runs Taplo's language server, the npm package @taplo/lsp, over standard input and output.
//
// It is what the extension of Visual Studio Code runs. Its program for the command line is built without it. Nothing is
// fetched: what the server reads is files.
const fs = require("node:fs");
const path = require("node:path");
const url = require("node:url");
const { TaploLsp } = require("@taplo/lsp");

const local = (place) => (place.startsWith("file:") ? url.fileURLToPath(place) : place);
const refuse = async (place) => {
  throw new Error(`no network: ${place}`);
};
const environment = {
  now: () => new Date(),
  envVar: (name) => process.env[name],
  envVars: () => Object.entries(process.env),
  stdErrAtty: () => false,
  stdin: async () => new Uint8Array(),
  stdout: async (bytes) => bytes.length,
  stderr: async (bytes) => fs.writeSync(2, bytes),
  glob: () => [],
  readFile: (place) => fs.promises.readFile(local(place)),
  writeFile: refuse,
  urlToFilePath: local,
  isAbsolute: path.isAbsolute,
  cwd: () => process.cwd(),
  findConfigFile: () => undefined,
};
globalThis.fetch = refuse; // it would ask for SchemaStore's catalog

function write(message) {
  const body = Buffer.from(JSON.stringify(message));
  process.stdout.write(Buffer.concat([Buffer.from(`Content-Length: ${body.length}\r\n\r\n`), body]));
}

TaploLsp.initialize(environment, { onMessage: write }).then((server) => {
  let rest = Buffer.alloc(0);
  process.stdin.on("data", (data) => {
    rest = Buffer.concat([rest, data]);
    for (let head; (head = rest.indexOf("\r\n\r\n")) >= 0; ) {
      const length = Number(/Content-Length: *(\d+)/i.exec(rest.subarray(0, head).toString())[1]);
      if (rest.length < head + 4 + length) return;
      const message = JSON.parse(rest.subarray(head + 4, head + 4 + length).toString());
      rest = rest.subarray(head + 4 + length);
      server.send(message);
      if (message.method === "exit") process.exit(0);
    }
  });
});
