// An edge node of Eclipse Tahu's sparkplug-client: births with aliases, then a value every 20 ms under its alias alone.
const options = JSON.parse(process.argv[2])
const { newClient } = require('node:module').createRequire(options.home + '/')('sparkplug-client')

const client = newClient({
  serverUrl: `mqtt://127.0.0.1:${options.port}`, username: '', password: '', groupId: options.group,
  edgeNode: options.node, clientId: options.node, version: 'spBv1.0', publishDeath: true,
})
const packed = options.compress ? { compress: true, algorithm: options.compress } : undefined
const metrics = (names) => [
  { alias: 11, type: 'Int32', value: -sent, ...(names && { name: 'depth' }) },
  { alias: 12, type: 'UInt64', value: 2 ** 40 + sent, ...(names && { name: 'strokes' }) },
  { alias: 13, type: 'Float', value: sent / 4, ...(names && { name: 'force' }) },
]
let sent = 0
let timer

function beBorn () {
  client.publishNodeBirth({ timestamp: Date.now(), metrics: [
    { name: 'Node Control/Rebirth', type: 'Boolean', value: false },
    { name: 'load', alias: 1, type: 'Double', value: 0.5 },
  ] }, packed)
  client.publishDeviceBirth('press', { timestamp: Date.now(), metrics: metrics(true) }, packed)
  timer ??= setInterval(() => {
    sent += 1
    client.publishDeviceData('press', { timestamp: Date.now(), metrics: metrics(false) }, packed)
  }, 20)
}

client.on('birth', beBorn)
client.on('ncmd', (payload) => {
  if (payload.metrics.some((each) => each.name === 'Node Control/Rebirth' && each.value)) {
    console.log('rebirth')
    beBorn()
  }
})
