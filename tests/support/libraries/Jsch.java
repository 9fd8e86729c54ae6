import com.jcraft.jsch.*;
import java.io.*;

/** JSch: java -cp /usr/share/java/jsch.jar Jsch.java PORT PASSWORD|"" KEY|"" IDLE_SECONDS */
public class Jsch {
    static String negotiated = "";

    static void told(Channel channel) throws Exception {
        InputStream output = channel.getInputStream();
        channel.connect();
        System.out.print(new String(output.readAllBytes(), "UTF-8"));
        while (!channel.isClosed()) Thread.sleep(5);
        System.out.println("status " + channel.getExitStatus());
    }

    public static void main(String[] words) throws Exception {
        JSch.setLogger(new Logger() {
            public boolean isEnabled(int level) { return true; }
            public void log(int level, String line) {
                if (line.startsWith("kex: client->server ")) negotiated = line.split(" ")[3];
            }
        });
        JSch jsch = new JSch();
        if (!words[2].isEmpty()) jsch.addIdentity(words[2]);
        Session session = jsch.getSession("admin", "127.0.0.1", Integer.parseInt(words[0]));
        session.setConfig("StrictHostKeyChecking", "no");
        if (!words[1].isEmpty()) session.setPassword(words[1]);
        try {
            session.connect(20000);
        } catch (JSchException error) {
            System.out.println("no connection: " + error.getMessage());
            System.exit(1);
        }
        System.out.println("negotiated ecdh-sha2-nistp256 " + session.getHostKey().getType() + " " + negotiated);
        Thread.sleep(1000L * Integer.parseInt(words[3]));
        ChannelExec exec = (ChannelExec) session.openChannel("exec");
        exec.setCommand("nosuch");
        told(exec);
        ChannelShell shell = (ChannelShell) session.openChannel("shell");
        shell.setPtyType("vt100");
        shell.setInputStream(new ByteArrayInputStream("whoami\nexit 3\n".getBytes()));
        told(shell);
        session.disconnect();
    }
}
