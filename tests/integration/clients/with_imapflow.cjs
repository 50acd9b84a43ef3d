// HOST PORT USER PASSWORD MESSAGE: the steps of every client, with imapflow.
const { createHash, webcrypto } = require("node:crypto");
const { readFileSync } = require("node:fs");
globalThis.crypto ??= webcrypto; // Debian 12 has Node 18, where it is no global yet
const { ImapFlow } = require("imapflow");

const [host, port, user, pass, message] = process.argv.slice(2);
const digest = (parts) => parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest("hex");

(async () => {
  const session = new ImapFlow({ host, port: Number(port), secure: false, logger: false, auth: { user, pass } });
  await session.connect();
  const folders = await session.list();
  console.log("list", ...folders.map((folder) => folder.path).sort());
  const mailbox = await session.mailboxOpen("INBOX");
  console.log("select", mailbox.exists);
  console.log("one", digest([(await session.fetchOne("1", { source: true })).source]));
  const all = [];
  for await (const { source } of session.fetch("1:*", { source: true })) all.push(source);
  console.log("all", digest(all));

  await session.append("INBOX", readFileSync(message));
  await session.noop();
  console.log("append OK", digest([(await session.fetchOne("*", { source: true })).source]));

  const arrived = new Promise((resolve) => session.on("exists", ({ count }) => resolve(count)));
  session.idle();
  console.log("idle");
  console.log("arrived", await arrived);
  await session.logout();
  console.log("logout", session.usable ? "?" : "BYE");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
