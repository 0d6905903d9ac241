"use strict";
// What the arms wrote: prompts with their references and every arm's answer, side by side.
const FIRST_PROMPTS = 6;
const answering = { text: "", shown: FIRST_PROMPTS };

const LONG = 700; // characters, from which on a text scrolls

/** A text as it was written: white space stays, markup in it is text, and it turns no other around. */
const written = ({ text }, name) => element("div", { class: text.length > LONG ? "written long" : "written", tabindex: text.length > LONG ? 0 : null, dir: "auto", role: "group", "aria-label": name }, text.trim() ? text : element("em", {}, text ? "white space alone" : "nothing"));

/** What a reader must know of a text that is not whole. */
const shortened = ({ text, of }) => (of ? [element("p", { class: "note" }, `Shortened: ${text.length.toLocaleString("en")} of ${of.toLocaleString("en")} characters.`)] : []);

const seedsOf = (answer) => `${answer.seeds.length > 1 ? "seeds" : "seed"} ${answer.seeds.join(", ")}`;

/** Whether an answer is right, or its score, and whether the model ended it. */
function marks(answer, metric) {
  const found = [];
  if (answer.right !== undefined) found.push(element("span", { class: `mark ${answer.right ? "right" : "wrong"}` }, answer.right ? "✓ right" : "✗ wrong"));
  if (answer.score !== undefined) found.push(element("span", { class: "mark" }, `${metric} ${answer.score}`));
  if (answer.cut !== undefined) found.push(element("span", { class: "mark cut" }, `✂ not ended, cut at ${answer.cut} tokens`));
  return found;
}

function answerCell(arm, answers, metric) {
  const [first, ...others] = answers;
  const head = (answer, name) => element("p", { class: "of" }, ...(name ? [element("strong", {}, name), " "] : []), element("span", { class: "note" }, seedsOf(answer)), ...marks(answer, metric).flatMap((mark) => [" ", mark]));
  const cell = element("div", { class: "answer", style: `--swatch: var(--m${DATA.methods.findIndex((one) => one.method === arm.method)})` }, head(first, arm.label), written(first, `Answer of ${arm.label}, seed ${first.seeds[0]}`), ...shortened(first));
  if (others.length) {
    const more = element("details", {}, element("summary", {}, `Other answers: ${others.map((answer) => `${seedsOf(answer)}${answer.right === undefined ? "" : answer.right ? " ✓" : " ✗"}`).join("; ")}`));
    more.addEventListener("toggle", () => {
      if (!more.open || more.children.length > 1) return;
      more.append(...others.flatMap((answer) => [head(answer), written(answer, `Answer of ${arm.label}, seed ${answer.seeds[0]}`), ...shortened(answer)]));
    });
    cell.append(more);
  }
  return cell;
}

/** What the model wrote before any training: beside the arms, and none of them. */
function untrainedCell(answer, metric) {
  const head = element("p", { class: "of" }, element("strong", {}, "untrained"), " ", element("span", { class: "note" }, "no arm"), ...marks(answer, metric).flatMap((mark) => [" ", mark]));
  return element("div", { class: "answer untrained" }, head, written(answer, "Answer of the untrained model"), ...shortened(answer));
}

/** How the arms that are shown answered, in few words. */
function outcome(firsts) {
  const judged = firsts.filter((answer) => answer.right !== undefined);
  if (judged.length) return `${judged.filter((answer) => answer.right).length} of ${judged.length} ${judged.length === 1 ? "arm" : "arms"} right`;
  const different = new Set(firsts.map((answer) => answer.text)).size;
  return different === 1 ? "all answers alike" : `${different} different answers`;
}

function promptBox(prompt, arms, metric) {
  const firsts = arms.map(({ place }) => prompt.answers[place][0]);
  const references = prompt.references.length > 1 ? "References" : "Reference";
  return element("article", { class: "prompt" },
    element("h3", {}, `Row ${prompt.row + 1}`, element("span", { class: "note" }, ` ${outcome(firsts)}`)),
    element("div", { class: "asked" },
      element("div", {}, element("p", { class: "of" }, "Prompt"), written(prompt.prompt, "Prompt"), ...shortened(prompt.prompt)),
      element("div", {}, element("p", { class: "of" }, references), ...prompt.references.flatMap((text) => [written(text, "Reference"), ...shortened(text)]))),
    element("div", { class: "answers" }, ...(prompt.untrained ? [untrainedCell(prompt.untrained, metric)] : []), ...arms.map(({ arm, place }) => answerCell(arm, prompt.answers[place], metric))));
}

/** Draw the prompts that the search leaves, with the answers of the arms that the page's filter leaves. */
function drawAnswers(from = 0) {
  if (!byId("answers")) return; // a report without answers
  const found = pair().answers;
  const list = byId("answers-list");
  byId("answers-about").textContent = found?.about ?? "";
  byId("answers-notes").textContent = found?.notes?.join(" ") ?? "";
  const kept = new Set(shownArms().map((one) => one.arm));
  const arms = (found?.arms ?? []).map((arm, place) => ({ arm, place })).filter(({ arm }) => kept.has(arm.arm));
  const texts = (one) => [one.prompt, ...one.references, ...(one.untrained ? [one.untrained] : []), ...arms.flatMap(({ place }) => one.answers[place])].map((each) => each.text).join("\n").toLowerCase();
  const left = arms.length ? found.prompts.filter((one) => matches(texts(one), answering.text)) : [];
  const shown = left.slice(from, answering.shown).map((one) => promptBox(one, arms, found.metric));
  if (from) list.append(...shown);
  else list.replaceChildren(...shown);
  document.querySelector("#answers .search").hidden = !found || Boolean(found.empty);
  byId("answers-count").textContent = answering.text && arms.length ? `${left.length} of ${found.prompts.length} prompts` : "";
  const why = !found ? "no run of this pair was asked for answers" : found.empty || (arms.length ? left.length ? "" : "no prompt is left by the search" : "no arm is left by the filter");
  if (why) list.replaceChildren(element("p", { class: "empty" }, `Nothing to show: ${why}.`));
  const rest = left.length - answering.shown;
  byId("answers-more").hidden = rest <= 0;
  byId("answers-more").textContent = `Show ${Math.min(rest, FIRST_PROMPTS)} more of ${left.length} prompts`;
}

function moreAnswers() {
  const from = answering.shown;
  answering.shown += FIRST_PROMPTS;
  drawAnswers(from);
}
