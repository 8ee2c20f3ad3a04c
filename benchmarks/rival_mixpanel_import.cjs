// mixpanel-import has the addresses of Mixpanel built in: here its connections lead to $SERVER.
const undici = require("undici");
undici.Pool = class extends undici.Pool {
  constructor(_origin, options) {
    super(process.env.SERVER, options);
  }
};
