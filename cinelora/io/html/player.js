"use strict";
// One play head for every clip of the page. A clip that is out of sight rests; all are moved when the head is moved.
(() => {
  const bar = document.querySelector(".bar");
  const clips = [...document.querySelectorAll("video")];
  const fps = Number(bar.dataset.fps), frames = Number(bar.dataset.frames);
  const slider = bar.querySelector("input"), shown = bar.querySelector("output"), toggle = bar.querySelector(".play");
  const inSight = new Set();
  let frame = 0, playing = false, started = 0;

  const middle = (number) => (number + 0.5) / fps; // of a frame: its edges belong to two
  const say = () => {
    slider.value = String(frame);
    shown.value = `frame ${frame + 1} of ${frames}`;
    toggle.textContent = playing ? "Pause" : "Play";
  };
  const place = (clip) => { clip.currentTime = Math.min(middle(frame), Math.max(0, (clip.duration || Infinity) - 0.001)); };
  const show = (number) => {
    frame = Math.min(frames - 1, Math.max(0, number));
    clips.forEach(place);
    say();
  };
  const pause = () => {
    playing = false;
    clips.forEach((clip) => clip.pause());
    show(frame);
  };
  const tick = (now) => {
    if (!playing) return;
    const time = ((now - started) / 1000) % (frames / fps);
    frame = Math.min(frames - 1, Math.floor(time * fps));
    for (const clip of inSight) {
      if (!clip.seeking && Math.abs(clip.currentTime - time) > 2.5 / fps) clip.currentTime = time;
      if (clip.paused) clip.play().catch(() => {});
    }
    say();
    requestAnimationFrame(tick);
  };
  const play = () => {
    playing = true;
    started = performance.now() - (frame / fps) * 1000;
    requestAnimationFrame(tick);
  };
  const step = (by) => { if (playing) pause(); show((frame + by + frames) % frames); };

  const watch = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) {
      if (isIntersecting) { inSight.add(target); } else { inSight.delete(target); target.pause(); }
    }
  }, { rootMargin: "80px" });
  clips.forEach((clip) => {
    watch.observe(clip);
    clip.addEventListener("loadedmetadata", () => { if (!playing) place(clip); });
    clip.addEventListener("ended", () => clip.pause());
  });
  toggle.addEventListener("click", () => (playing ? pause() : play()));
  bar.querySelector(".back").addEventListener("click", () => step(-1));
  bar.querySelector(".next").addEventListener("click", () => step(1));
  slider.addEventListener("input", () => { if (playing) pause(); show(Number(slider.value)); });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input[type=text], summary") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && event.target !== toggle) { event.preventDefault(); toggle.click(); }
    if (event.target === slider) return; // which moves by itself
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  show(0);
})();
