"use strict";
// A contact sheet: shots shown by verdict or reason, kept or rejected by hand, and the hand's verdicts given out as a file.
(() => {
  const main = document.querySelector("main");
  const shots = [...document.querySelectorAll(".shot")];
  const count = document.querySelector("#count"), reason = document.querySelector("#reason");
  let show = "all", saved = true;

  const verdict = (shot) => shot.dataset.hand || shot.dataset.judged;
  const fits = {
    all: () => true,
    keep: (shot) => verdict(shot) === "keep",
    reject: (shot) => verdict(shot) === "reject" || (!shot.dataset.hand && shot.dataset.verdict === "stills"),
    hand: (shot) => shot.dataset.hand !== "",
  };
  const draw = () => {
    let seen = 0;
    for (const shot of shots) {
      shot.hidden = !(fits[show](shot) && (!reason.value || shot.dataset.reasons.includes(reason.value)));
      seen += shot.hidden ? 0 : 1;
      shot.querySelectorAll("[data-choice]").forEach((button) => button.classList.toggle("on", button.dataset.choice === shot.dataset.hand));
      shot.classList.toggle("out", verdict(shot) === "reject");
    }
    for (const section of document.querySelectorAll("section")) section.hidden = !section.querySelector(".shot:not([hidden])");
    document.querySelectorAll("[data-show]").forEach((button) => button.classList.toggle("on", button.dataset.show === show));
    const hands = shots.filter(fits.hand).length;
    count.value = `${seen} of ${shots.length} shots, ${hands} by hand`;
  };
  const choose = (shot, choice) => {
    shot.dataset.hand = shot.dataset.hand === choice ? "" : choice; // the same once more: as judged
    saved = false;
    draw();
  };
  const save = () => {
    const verdicts = Object.fromEntries(shots.filter(fits.hand).map((shot) => [shot.dataset.shot, shot.dataset.hand]));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify({ verdicts }, null, 1)], { type: "application/json" }));
    link.download = main.dataset.file;
    link.click();
    saved = true;
  };
  document.querySelectorAll("[data-show]").forEach((button) => button.addEventListener("click", () => { show = button.dataset.show; draw(); }));
  reason.addEventListener("change", draw);
  main.addEventListener("click", (event) => {
    const button = event.target.closest("[data-choice]");
    if (button) choose(button.closest(".shot"), button.dataset.choice);
  });
  document.querySelector("#save").addEventListener("click", save);
  window.addEventListener("beforeunload", (event) => { if (!saved) event.preventDefault(); });
  draw();
})();
