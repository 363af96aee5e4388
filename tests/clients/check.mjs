// What OpenAI's client for Node makes of the gateway: check.mjs CASE; BASE, KEY, DIR and MODULES say where.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { createRequire } from 'node:module';

const { BASE: baseURL, KEY: apiKey, DIR, MODULES } = process.env;
const OpenAI = createRequire(`${MODULES}/x.js`)('openai');
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 30_000 });
const user = (content) => [{ role: 'user', content }];
const chat = (content, more = {}, options = {}) =>
  client.chat.completions.create({ model: 'default', messages: user(content), ...more }, options);
const text = (completion) => completion.choices[0].message.content;

async function gather(stream) {
  const all = [];
  for await (const one of stream) all.push(one);
  return all;
}

const cases = {
  async chats() {
    assert.deepEqual((await gather(await client.models.list())).map((m) => m.id), ['default']);
    const whole = await chat('hi');
    assert.equal(text(whole), 'text=hi');
    assert.equal(whole.usage.total_tokens, 8);
    const chunks = await gather(await chat('hi', { stream: true, stream_options: { include_usage: true } }));
    assert.equal(chunks.map((c) => c.choices[0]?.delta.content ?? '').join(''), 'text=hi');
    assert.equal(chunks.at(-1).usage.total_tokens, 8);
    const replies = await Promise.all([...Array(20).keys()].map((n) => chat(`n${n}`)));
    assert.deepEqual(replies.map(text), [...Array(20).keys()].map((n) => `text=n${n}`));
    const headers = { 'X-Hermes-Session-Id': 'node' };
    await chat('one', {}, { headers });
    assert.match(text(await chat('two', {}, { headers })), /^text=two\n[^]*"one"/);
    const keyed = { headers: { 'Idempotency-Key': 'node-1' } };
    const ids = [await chat('once', {}, keyed), await chat('once', {}, keyed)].map((c) => c.id);
    assert.equal(ids[0], ids[1]);
  },

  async errors() {
    const wrong = new OpenAI({ baseURL, apiKey: 'x'.repeat(40), maxRetries: 0 });
    await assert.rejects(wrong.models.list(), OpenAI.AuthenticationError);
    const image = [{ type: 'image_url', image_url: { url: 'data:,' } }];
    await assert.rejects(chat(image), OpenAI.BadRequestError);
    await assert.rejects(chat('fail'), (e) => e.status === 502 && /it cannot be done/.test(e.message));
    await assert.rejects(chat('busy', {}, { maxRetries: 1 }), (e) => e.status === 503);
    assert.equal(fs.readFileSync(`${DIR}/attempts`, 'utf8'), 'x\nx\n');
    await assert.rejects(async () => gather(await chat('half', { stream: true })), OpenAI.APIError);
    await assert.rejects(chat('slow', {}, { timeout: 500 }), OpenAI.APIConnectionTimeoutError);
    const stream = await client.responses.create({ model: 'default', input: 'half', stream: true });
    assert.equal((await gather(stream)).at(-1).type, 'response.failed');
  },

  async responses() {
    const first = await client.responses.create({ model: 'default', input: 'one', instructions: 'be kind' });
    assert.match(first.output_text, /^text=one\n[^]*be kind/);
    const second = await client.responses.create({
      model: 'default', input: user('two'), previous_response_id: first.id,
    });
    assert.match(second.output_text, /^text=two\n[^]*"one"/);
    assert.equal((await client.responses.retrieve(first.id)).status, 'completed');
    await client.responses.delete(first.id);
    await assert.rejects(client.responses.retrieve(first.id), OpenAI.NotFoundError);
    const events = await gather(await client.responses.create({ model: 'default', input: 'hi', stream: true }));
    assert.deepEqual(events.map((e) => e.sequence_number), [...events.keys()]);
    assert.equal(events[0].type, 'response.created');
    assert.equal(events.at(-1).response.output[0].content[0].text, 'text=hi');
    const stream = client.responses.stream({ model: 'default', input: 'hi' });
    assert.equal((await stream.finalResponse()).output_text, 'text=hi');
  },
};

for (const name of process.argv.slice(2)) await cases[name]();
