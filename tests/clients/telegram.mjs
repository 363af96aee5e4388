// A chat with a bot on a Telegram server that others wrote: prints the server's port, and ends well if all is answered.
// MODULES says where the server is.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import net from 'node:net';

const TelegramServer = createRequire(`${process.env.MODULES}/x.js`)('telegram-test-api');

const free = await new Promise((resolve) => {
  const probe = net.createServer().listen(0, '127.0.0.1', () => {
    const { port } = probe.address();
    probe.close(() => resolve(port));
  });
});
const server = new TelegramServer({ port: free, host: '127.0.0.1', storeTimeout: 600 });
await server.start();
console.log(free);

const token = `666:${'A'.repeat(35)}`;
const users = [42, 43].map((userId) => server.getClient(token, { userId, chatId: userId, firstName: `U${userId}` }));
const [ann, bob] = users;

// What the bot shows in a chat, the edits made.
const shown = ({ chatId }) => server.storage.botMessages.filter((it) => Number(it.message.chat_id) === chatId);

async function until(client, what, found) {
  for (const end = Date.now() + 60_000; Date.now() < end;) {
    const it = shown(client).find(({ message }) => found(message));
    if (it) return it;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.fail(`${what}; there is ${JSON.stringify(shown(client).map((it) => it.message))}`);
}

const say = (client, text) => client.sendMessage(client.makeMessage(text));

await say(ann, 'good morning');
await until(ann, 'a reply', ({ text }) => text === 'good morning');

await say(ann, '**bold** and `code`, 😀 *too*');
const { message } = await until(ann, 'a formatted reply', ({ text }) => text === 'bold and code, 😀 too');
const kinds = message.entities.map(({ type, offset, length }) => [type, message.text.substr(offset, length)]);
assert.deepEqual(kinds, [['bold', 'bold'], ['code', 'code'], ['italic', 'too']]);
assert.equal(message.parse_mode, undefined);

await ann.sendCommand(ann.makeCommand('/whoami'));
await until(ann, 'who that is', ({ text }) => text.includes('family:42'));

const long = Array.from({ length: 1200 }, (_, n) => `line ${n}`).join('\n');
await say(bob, long);
await until(bob, 'the last part', ({ text }) => text.endsWith('line 1199'));
const parts = shown(bob).map((it) => it.message.text);
assert.ok(parts.length > 2 && parts.every((it) => it.length <= 4096));
assert.equal(parts.join('\n').replace(/\s+/g, ' '), long.replace(/\s+/g, ' '));

await say(ann, 'ask 1 delete all');
const question = await until(ann, 'a question', (it) => it.reply_markup?.inline_keyboard?.length);
const buttons = question.message.reply_markup.inline_keyboard.flat();
const allow = buttons.find(({ text }) => text.startsWith('Allow'));
const press = (client, data) => client.sendCallback(client.makeCallbackQuery(data, {
  message: { message_id: question.messageId, chat: { id: 42 } },
}));
await press(bob, allow.callback_data);
await press(ann, allow.callback_data);
await until(ann, 'its end', ({ text }) => text === 'allowed');

// Each message has its one reply, and nothing was refused.
assert.equal(shown(ann).filter((it) => it.message.text === 'good morning').length, 1);
await server.stop();
