// Boxes that are drawn on a picture, in the picture's own pixels: by mouse always, by finger while `drawing` is on the
// canvas, for else a finger scrolls the page.

const LEAST = 12;
const MOST = 12;

/** Lets the user draw; `done` gets all boxes after each. */
export function drawn(canvas, image, done) {
  let boxes = [];
  let names = [];
  let from = null;
  let to = null;

  // The picture is shown whole and centred: `object-fit: contain`.
  function place() {
    const { clientWidth: width, clientHeight: height } = canvas;
    const scale = Math.min(width / image.naturalWidth, height / image.naturalHeight);
    return { scale, left: (width - scale * image.naturalWidth) / 2, top: (height - scale * image.naturalHeight) / 2 };
  }

  function point(event) {
    const { scale, left, top } = place();
    const around = canvas.getBoundingClientRect();
    const within = (value, most) => Math.max(0, Math.min(most, value));
    return [
      within((event.clientX - around.left - left) / scale, image.naturalWidth),
      within((event.clientY - around.top - top) / scale, image.naturalHeight),
    ];
  }

  const box = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    const { scale, left, top } = place();
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.lineWidth = 3;
    pen.font = "600 14px system-ui, sans-serif";
    const all = to ? [...boxes, box(from, to)] : boxes;
    all.forEach(([x0, y0, x1, y1], i) => {
      const [x, y] = [left + scale * x0, top + scale * y0];
      pen.strokeStyle = "#fff";
      pen.strokeRect(x, y, scale * (x1 - x0), scale * (y1 - y0));
      pen.setLineDash([6, 4]);
      pen.strokeStyle = "#0b6e4f";
      pen.strokeRect(x, y, scale * (x1 - x0), scale * (y1 - y0));
      pen.setLineDash([]);
      const text = names[i] ? `${i + 1} ${names[i]}` : `${i + 1}`;
      pen.fillStyle = "#0b6e4f";
      pen.fillRect(x, y, pen.measureText(text).width + 12, 21);
      pen.fillStyle = "#fff";
      pen.fillText(text, x + 6, y + 15);
    });
  }

  canvas.addEventListener("pointerdown", (event) => {
    const scrolls = event.pointerType === "touch" && !canvas.classList.contains("drawing");
    if (scrolls || boxes.length >= MOST || !image.naturalWidth) return;
    from = point(event);
    to = null;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    to = point(event);
    draw();
  });
  canvas.addEventListener("pointerup", () => {
    const made = from && to ? box(from, to) : null;
    from = to = null;
    if (made && made[2] - made[0] >= LEAST && made[3] - made[1] >= LEAST) {
      boxes = [...boxes, made.map(Math.round)];
      names = [];
      done(boxes);
    }
    draw();
  });
  canvas.addEventListener("pointercancel", () => { from = to = null; draw(); });
  image.addEventListener("load", draw);
  new ResizeObserver(draw).observe(canvas);

  return {
    clear() { boxes = []; names = []; draw(); },
    name(labels) { names = labels; draw(); },
  };
}
