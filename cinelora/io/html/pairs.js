"use strict";
// A blind test: pairs one after the other, a question at a time, and the answers handed out as a file.
(() => {
  const main = document.querySelector("main");
  const pairs = [...document.querySelectorAll(".pair")];
  const name = document.querySelector("#rater"), count = document.querySelector("#count");
  const answers = new Map(); // "pair question" -> side or "same"
  let at = 0, saved = true;

  const key = (pair, question) => `${pair.dataset.pair} ${question.dataset.question}`;
  const questions = (pair) => [...pair.querySelectorAll(".question")];
  const open = (pair) => questions(pair).find((question) => !answers.has(key(pair, question)));
  const replay = () => pairs[at].querySelectorAll("video").forEach((clip) => { clip.currentTime = 0; clip.play().catch(() => {}); });

  const draw = () => {
    pairs.forEach((pair, number) => {
      pair.hidden = number !== at;
      pair.querySelectorAll("video").forEach((clip) => { if (pair.hidden) clip.pause(); });
    });
    const pair = pairs[at], next = open(pair);
    for (const question of questions(pair)) {
      question.classList.toggle("now", question === next);
      const chosen = answers.get(key(pair, question));
      question.querySelectorAll("button").forEach((button) => button.classList.toggle("on", button.dataset.choice === chosen));
    }
    const done = pairs.filter((one) => !open(one)).length;
    count.value = `pair ${at + 1} of ${pairs.length}, ${done} answered`;
    document.querySelector("#back").disabled = at === 0;
    document.querySelector("#next").disabled = at === pairs.length - 1;
    document.querySelector("#save").disabled = answers.size === 0;
  };
  const go = (to) => { at = Math.min(pairs.length - 1, Math.max(0, to)); draw(); replay(); };
  const answer = (question, choice) => {
    const pair = pairs[at];
    answers.set(key(pair, question), choice);
    saved = false;
    draw();
    if (!open(pair) && at < pairs.length - 1) setTimeout(() => { if (pairs[at] === pair) go(at + 1); }, 350);
  };
  const save = () => {
    const told = [...answers].map(([where, choice]) => {
      const [pair, question] = where.split(" ");
      return { pair, question, choice };
    });
    const file = { format: "cinelora-answers/1", page: main.dataset.page, rater: name.value.trim() || "anonymous", answers: told };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1)], { type: "application/json" }));
    link.download = `answers-${file.rater.replace(/[^\w-]+/g, "_")}.json`;
    link.click();
    saved = true;
  };

  pairs.forEach((pair) => questions(pair).forEach((question) => {
    question.querySelectorAll("button").forEach((button) => {
      button.addEventListener("click", () => answer(question, button.dataset.choice));
    });
  }));
  document.querySelector("#back").addEventListener("click", () => go(at - 1));
  document.querySelector("#next").addEventListener("click", () => go(at + 1));
  document.querySelector("#replay").addEventListener("click", replay);
  document.querySelector("#save").addEventListener("click", save);
  document.addEventListener("keydown", (event) => {
    if (event.target === name || event.ctrlKey || event.metaKey || event.altKey) return;
    const place = { ArrowLeft: 0, ArrowDown: 1, ArrowRight: 2 }[event.key];
    const question = open(pairs[at]);
    if (place !== undefined && question) { event.preventDefault(); answer(question, question.querySelectorAll("button")[place].dataset.choice); }
    if (event.key === " " && event.target.tagName !== "BUTTON") { event.preventDefault(); replay(); }
  });
  window.addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });
  go(0);
})();
