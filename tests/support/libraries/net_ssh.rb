# net-ssh: ruby net_ssh.rb PORT PASSWORD|"" KEY|"" IDLE_SECONDS
require "net/ssh"

port, password, key, idle = ARGV
login = password.empty? ? { keys: [key], keys_only: true, auth_methods: ["publickey"] } : { password: password, auth_methods: ["password"] }
fixed = { port: port.to_i, verify_host_key: :never, config: false, use_agent: false, timeout: 20, non_interactive: true }

def told(session, request, *fields, input: nil)
  status = nil
  session.open_channel do |channel|
    channel.on_data { |_, data| print data }
    channel.on_request("exit-status") { |_, data| status = data.read_long }
    channel.send_channel_request(request, *fields) { channel.send_data(input) if input }
  end
  session.loop
  puts "status #{status}"
end

begin
  Net::SSH.start("127.0.0.1", "admin", **fixed, **login) do |session|
    used = session.transport.algorithms
    puts "negotiated #{used.kex} #{used.host_key} #{used.hmac_client}"
    sleep idle.to_i
    told(session, "exec", :string, "nosuch")
    told(session, "shell", input: "whoami\nexit 3\n")
  end
rescue Net::SSH::Exception, SystemCallError => e
  puts "no connection: #{e.message}"
  exit 1
end
