// The camera, where the browser lets this page have it: on this machine, or over HTTPS.

export class Camera {
  constructor(video) {
    this.video = video;
    this.stream = null;
  }

  async open() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("The browser gives its camera only to pages over HTTPS. Choose a picture instead: phones then offer their camera.");
    }
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 960 } },
        audio: false,
      });
    } catch (error) {
      throw new Error(error.name === "NotAllowedError" ? "The browser was told not to give the camera." : "There is no camera that can be used.");
    }
    this.video.srcObject = this.stream;
    await this.video.play();
  }

  close() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.video.srcObject = null;
  }

  /** What it sees, as a JPEG. */
  shot() {
    const { videoWidth: width, videoHeight: height } = this.video;
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    return canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
  }
}
