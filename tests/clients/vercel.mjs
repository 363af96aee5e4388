// What the Vercel AI SDK makes of the gateway, with each of its providers: BASE, KEY and MODULES say where.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const { BASE: baseURL, KEY: apiKey, MODULES } = process.env;
const load = createRequire(`${MODULES}/x.js`);
const { createOpenAI } = load('@ai-sdk/openai');
const { createOpenAICompatible } = load('@ai-sdk/openai-compatible');
const { APICallError, Output, generateObject, generateText, stepCountIs, streamObject, streamText, tool } = load('ai');
const { z } = load('zod');

const providers = (options) => {
  const openai = createOpenAI({ baseURL, apiKey, ...options });
  const compatible = (more) => createOpenAICompatible({ name: 'gateway', baseURL, apiKey, ...options, ...more });
  return {
    responses: openai('default'),
    chat: openai.chat('default'),
    compatible: compatible({ supportsStructuredOutputs: true, includeUsage: true })('default'),
    plain: compatible()('default'),
  };
};

const png = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==', 'base64');
const city = z.object({ city: z.string() });
let ran = 0;
const tools = {
  weather: tool({ description: 'the weather', inputSchema: city, execute: async (it) => (ran++, `sunny in ${it.city}`) }),
  time: tool({ description: 'the time', inputSchema: z.object({ zone: z.string(), hours: z.number() }), execute: async () => ({ hour: 7 }) }),
};

// Whole and streamed: an error comes as an exception either way.
async function ask(stream, options) {
  options = { maxRetries: 0, ...options };
  if (!stream) return generateText(options);
  let failure;
  const result = streamText({ ...options, onError: ({ error }) => { failure ??= error; } });
  let text = '';
  for await (const piece of result.textStream) text += piece;
  if (failure) throw failure;
  const names = ['finishReason', 'usage', 'steps', 'request', 'response', 'toolCalls'];
  const parts = await Promise.all(names.map((name) => result[name]));
  const whole = Object.fromEntries(names.map((name, at) => [name, parts[at]]));
  return { text, output: options.output && (await result.output), ...whole };
}

async function check(name, model, stream) {
  const hi = await ask(stream, { model, prompt: 'hi' });
  assert.equal(hi.text, 'you said: hi');
  assert.equal(hi.finishReason, 'stop');
  // This provider does not ask for it in a stream, unless it is told to.
  if (!(stream && name === 'plain')) assert.deepEqual([hi.usage.inputTokens, hi.usage.outputTokens], [9, 12]);
  assert.equal((await ask(stream, { model, prompt: 'a long story', system: 'be kind', temperature: 0.5 })).finishReason, 'length');

  ran = 0;
  const options = { model, tools, stopWhen: stepCountIs(3) };
  const looped = await ask(stream, { ...options, prompt: 'call weather' });
  assert.equal(looped.text, 'results: sunny in Rome');
  assert.equal(looped.steps.length, 2);
  assert.equal(ran, 1);
  const both = await ask(stream, { ...options, prompt: 'call all' });
  assert.equal(both.text, 'results: sunny in Rome | {"hour":7}');
  assert.deepEqual(both.steps[0].toolCalls.map((call) => call.toolName), ['weather', 'time']);
  const forced = await ask(stream, { model, tools, toolChoice: { type: 'tool', toolName: 'time' }, prompt: 'now' });
  assert.deepEqual(forced.toolCalls.map((call) => call.toolName), ['time']);
  const any = await ask(stream, { model, tools, toolChoice: 'required', prompt: 'now' });
  assert.deepEqual(any.toolCalls.map((call) => call.toolName), ['weather']);

  // Three turns: each has all that was said and called before.
  const messages = [];
  for (const [said, wanted] of [['call weather', 'results: sunny in Rome'], ['more', 'you said: more'], ['call time', 'results: {"hour":7}']]) {
    messages.push({ role: 'user', content: said });
    const turn = await ask(stream, { ...options, messages });
    assert.equal(turn.text, wanted);
    messages.push(...turn.response.messages);
    // What this provider has of the gateway it does not send again.
    const refers = name === 'responses' && said !== 'call weather';
    assert.equal(JSON.stringify(turn.steps[0].request.body).includes('item_reference'), refers);
  }
  assert.equal(messages.length, 10);

  if (name !== 'plain') {
    const schema = z.object({ place: city, kind: z.enum(['big', 'small']), parts: z.array(z.string()) });
    const wanted = { place: { city: 'Rome' }, kind: 'big', parts: ['Rome', 'Rome'] };
    const structured = await ask(stream, { model, prompt: 'where', output: Output.object({ schema }) });
    assert.deepEqual(structured.output, wanted);
    const withTools = await ask(stream, { ...options, prompt: 'call weather', output: Output.object({ schema }) });
    assert.deepEqual([withTools.output, withTools.steps.length], [wanted, 2]);
    const object = stream ? streamObject({ model, prompt: 'where', schema }) : await generateObject({ model, prompt: 'where', schema });
    let last;
    if (stream) for await (last of object.partialObjectStream);
    else last = object.object;
    assert.deepEqual(last, wanted);
    assert.deepEqual(await object.object, wanted);
  }
  // Without a schema of its own the model is asked for JSON.
  const free = await ask(stream, { model, system: 'answer in JSON', prompt: 'where', output: Output.json() });
  assert.deepEqual(free.output, { city: 'Rome' });

  const content = [{ type: 'text', text: 'what is this' }, { type: 'image', image: png }, { type: 'file', data: png, mediaType: 'image/png' }];
  assert.equal((await ask(stream, { model, messages: [{ role: 'user', content }] })).text, 'pictures: 2');
}

async function fails(model, stream, prompt, status, words) {
  await assert.rejects(ask(stream, { model, prompt }), (error) => {
    assert(status === undefined || (APICallError.isInstance(error) && error.statusCode === status), `${prompt}: ${error.stack}`);
    assert.match(String(error.message ?? error), words, prompt);
    return true;
  });
}

for (const [name, model] of Object.entries(providers({}))) {
  for (const stream of [false, true]) {
    const place = `${name}, ${stream ? 'streamed' : 'whole'}`;
    try {
      await check(name, model, stream);
      for (const status of [400, 404, 429, 500, 503]) {
        await fails(model, stream, `error ${status}`, status, /you asked for error/);
      }
      await fails(model, stream, 'cut', stream ? undefined : 503, /broke off|in the middle/);
      // Five wrong keys are too many.
      if (stream === (name !== 'chat')) await fails(providers({ apiKey: 'x'.repeat(40) })[name], stream, 'hi', 401, /key/i);
    } catch (error) {
      console.error(place);
      throw error;
    }
  }
}
// A key of the client's makes it durable, and this is asked for once.
const once = await generateText({ model: providers({}).responses, prompt: 'hi', headers: { 'Idempotency-Key': 'vercel-1' } });
assert.equal(once.text, 'you said: hi');
