// Browsers give no worker to a page that is opened from a disk. There the search runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = `<script src="${url}"></script>`;
      this.window = new Promise((found) => { frame.onload = () => found(frame.contentWindow); });
      this.window.then((window) => {
        window.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      });
      document.body.append(frame);
    }

    postMessage(data) {
      this.window.then((window) => window.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
